"""The model card of a checkpoint whose figures are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gqasearch.checkpoints import CardFacts, Layout, model_card
from gqasearch.errors import UserError
from gqasearch.files import write_file
from gqasearch.grouping_document import GroupingDocument
from gqasearch.models import read_config
from gqasearch.steps.kv_bytes import decision_words
from gqasearch.steps.measure import CONVERTED
from gqasearch.steps.metric_records import card_rows, measured_words
from gqasearch.steps.warnings import ratio_words
from gqasearch.steps.workspace import Workspace


def write_card(
    work: Workspace, directory: Path, document: GroupingDocument, layout: Layout, metrics: dict[str, Any]
) -> None:
    """The model card in ``directory``, in place of the one without figures; ``metrics``: as in ``metrics.json``.

    Raises ``UserError`` where the parent is in memory only.
    """
    parent, mine = metrics["parent"], metrics["results"][CONVERTED]
    rows = card_rows(parent, mine, work.parent.family.objective)
    ratio = ratio_words(work.config, work.budget, work.source.geometry)
    decided = decision_words(metrics["decision"]) if "decision" in metrics else ratio
    facts = CardFacts(rows, measured_words(metrics), work.asked.model_dump(mode="json"), decided)
    if work.parent.directory is None:
        raise UserError(f"model {work.parent.id} is in memory only")
    card = model_card(document, layout, read_config(directory), work.parent.directory, facts)
    write_file(directory / "README.md", card, overwrite=True)

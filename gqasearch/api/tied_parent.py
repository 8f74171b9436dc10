"""The parent as a grouping converts it, without a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedModel

from gqasearch.api.parent_with_text import ParentWithText, chosen
from gqasearch.api.python_words import python_words
from gqasearch.errors import UserError
from gqasearch.grouping_document import GroupingDocument, LayerRecord
from gqasearch.grouping_fit import check_fits
from gqasearch.merging import Merge
from gqasearch.models import layers_replaced, model_record
from gqasearch.refining import Refinement
from gqasearch.separate_grouping import AnyGrouping, SeparateGrouping
from gqasearch.steps import Workspace
from gqasearch.steps.convert import document_converter, refine_step


@contextmanager
def converted(
    parent: ParentWithText,
    grouping: AnyGrouping,
    *,
    merge: Merge | str | None = None,
    refine: Refinement | str | None = None,
) -> Iterator[PreTrainedModel]:
    """Within the block the parent's model computes as the converted one does; after it all weights are as they were.

    It is the parent itself, whose heads that share are equal: tokens and logits are those of the checkpoint, the cache
    is as large as the parent's. ``merge``, ``refine``: as in ``search``. Raises ``UserError`` where the grouping is of
    another number of layers or heads.
    """
    settings, objects = chosen(merge=merge, refine=refine)
    with python_words(), TemporaryDirectory(prefix="gqasearch-refined-") as folder:
        work = parent.workspace({**settings, "separate_kv": isinstance(grouping, SeparateGrouping)}, objects)
        with as_converted(work, document_of(work, grouping), Path(folder)) as model:
            yield model


@contextmanager
def as_converted(work: Workspace, document: GroupingDocument, refined_in: Path) -> Iterator[PreTrainedModel]:
    """``converted`` of a document; ``refined_in``: see ``refine_step``."""
    if document.has_second_reads:
        raise UserError(
            "the parent itself reads every head once, and some of this grouping read twice (fill_slots): save it, and "
            "load the checkpoint"
        )
    converter = document_converter(work, document)
    refined = refine_step(work, converter, document, refined_in)
    with layers_replaced(work.parent, converter.tied_layers(document.partitions, refined)):
        yield work.parent.model


def document_of(work: Workspace, grouping: AnyGrouping) -> GroupingDocument:
    """A grouping with the model that it is of; merge and refinement are those of ``work``."""
    separate = isinstance(grouping, SeparateGrouping)
    listed = grouping.sides if isinstance(grouping, SeparateGrouping) else grouping
    record = model_record(work.config.model, work.source)
    document = GroupingDocument(record, tuple(map(LayerRecord, listed)), separate_kv=separate)
    check_fits(document, work.source.geometry, fingerprint=None)
    return document

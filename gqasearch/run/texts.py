"""The three texts of a run: which of them it looks at, and the tokens that each gives."""

from __future__ import annotations

from dataclasses import dataclass

from gqasearch.calibration import shortage
from gqasearch.embedded import SPLITS, Split
from gqasearch.run.workspace import Workspace


@dataclass(frozen=True)
class TextFacts:
    """``source``: the text in words; ``wanted`` and ``found``: tokens, which are in ``blocks`` blocks; ``used``: by
    this run; ``shortage``: the words on a text that has fewer than were wanted, None where it has enough.
    """

    source: str
    wanted: int
    found: int
    blocks: int
    used: bool
    shortage: str | None


def text_facts(work: Workspace) -> dict[Split, TextFacts]:
    """Of every text, whether this run looks at it or not. Raises ``UserError`` as reading them does."""
    facts: dict[Split, TextFacts] = {}
    for split in SPLITS:
        blocks, wanted = work.blocks(split), work.wanted_tokens(split)
        used = split in used_texts(work)
        facts[split] = TextFacts(blocks.source, wanted, blocks.tokens, len(blocks.ids), used, shortage(blocks, wanted))
    return facts


def used_texts(work: Workspace) -> list[Split]:
    """The texts that this run looks at; results are always reported on one."""
    used: dict[Split, bool] = {
        "calibration": "statistics" in work.needs() or work.refinement.reads_text,
        "search": any(fitness.needs == "forward" for fitness in work.fitnesses.values()),
        "evaluation": True,
    }
    return [split for split in SPLITS if used[split]]


def shortages(work: Workspace) -> list[str]:
    """Words on every text in use that has fewer tokens than were wanted."""
    found = [shortage(work.blocks(split), work.wanted_tokens(split)) for split in used_texts(work)]
    return [words for words in found if words is not None]

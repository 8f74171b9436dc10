"""The three texts of a run: which of them it looks at, and which are shorter than was asked for."""

from __future__ import annotations

from gqasearch.calibration import shortage
from gqasearch.embedded import SPLITS, Split
from gqasearch.refining.layer_site import AMPLE_PER_INPUT, is_scarce, output_inputs
from gqasearch.steps.cut_texts import wanted_tokens
from gqasearch.steps.workspace import Workspace


def used_texts(work: Workspace) -> list[Split]:
    """The texts that this run looks at; results are always reported on one."""
    decides = work.asked.decides_format
    fits = work.refinement.reads_text or work.config.kv_bits is not None or decides
    used: dict[Split, bool] = {
        "calibration": "statistics" in work.needs() or fits,
        "search": decides or any(fitness.needs == "forward" for fitness in work.fitnesses.values()),
        "evaluation": True,
    }
    return [split for split in SPLITS if used[split]]


def shortages(work: Workspace) -> list[str]:
    """Words on every text in use that has fewer tokens than were wanted."""
    found = [shortage(work.blocks(split), wanted_tokens(work.config, split)) for split in used_texts(work)]
    return [words for words in found if words is not None]


def scarce_words(work: Workspace) -> str | None:
    """Words on a calibration text that is so short for the layers that fits to it are validated; None for an ample."""
    if work.budget.is_identity or not work.refinement.parameters().get("validate"):
        return None
    tokens, inputs = work.blocks("calibration").tokens, output_inputs(work.source.geometry)
    if not is_scarce(tokens, work.source.geometry):
        return None
    return (
        f"calibration text: {tokens:,} tokens, {tokens / inputs:.2g} for each of the {inputs:,} inputs of W_o: what is "
        f"fitted is checked on a part of it that the fit does not see; {AMPLE_PER_INPUT} and more are ample "
        "(--calibration-tokens)"
    )

"""What a reader of a run's figures must know about its texts."""

from __future__ import annotations

import math

from gqasearch.budget import Budget
from gqasearch.calibration import benchmark_named, overlap
from gqasearch.config import RunConfig
from gqasearch.models import HeadGeometry
from gqasearch.steps.texts import shortages, used_texts
from gqasearch.steps.workspace import Workspace

SEARCHED = "the search objective ran the model on {text}; do not report results on that text"
BENCHMARK = "{text} is named after the test set of {benchmark}: {use} it, so figures on {benchmark} say nothing now"
OVERLAP = (
    "{share:.1%} of the reported text also stands in the {split} text: figures are too good there; give another "
    "--evaluation-text"
)
VALIDATION = (
    "figures are on the validation part of the text, for comparing settings, and settings chosen by them look too good "
    "on it: report on the held-out part"
)

NOTHING_MERGED = "the budget leaves every head its own: nothing is merged"

# Share of the reported text seen before from which it is worth a word: licences and quotations stay below.
WORTH_A_WORD = 0.01


def warnings_of(work: Workspace) -> list[str]:
    """Warnings for metrics.json and the report."""
    text = work.config.calibration_text
    used = used_texts(work)
    searched, fitted = "search" in used, "calibration" in used
    found = [VALIDATION] if work.config.evaluation_part == "validation" else []
    if (words := ratio_words(work.config, work.budget, work.source.geometry)) is not None:
        found.append(words)
    if work.budget.is_identity and not work.config.has_free_counts:
        found.append(NOTHING_MERGED)
    found += shortages(work)
    if searched and text != "embedded":
        found.append(SEARCHED.format(text=f"the search part of {text}"))
    benchmark = benchmark_named(text)
    if benchmark is not None and (searched or fitted):
        use = "the search ran the model on" if searched else "weights were fitted to"
        found.append(BENCHMARK.format(text=text, benchmark=benchmark, use=use))
    for split in (split for split in used if split != "evaluation"):
        share = overlap(work.blocks(split), work.blocks("evaluation"))
        if share > WORTH_A_WORD:
            found.append(OVERLAP.format(share=share, split=split))
    return found


def ratio_words(config: RunConfig, budget: Budget, geometry: HeadGeometry) -> str | None:
    """What a KV ratio becomes that is no whole number of heads; None where it is one, or none was given."""
    ratio, heads, layers = config.kv_ratio, geometry.num_kv_heads, len(budget.counts)
    joined = config.join
    if ratio is None or math.isclose(joined * budget.total, ratio * layers * heads):
        return None
    if joined > 1:
        near = f"{budget.total / layers:.4g} a layer = {joined * budget.total / (layers * heads):.4g} of the cache"
        return f"kv-ratio {ratio:g} is no whole number of heads of {joined} times the size: taking the nearest, {near}"
    if budget.movable:
        near = f"{budget.total} of {layers * heads} = {budget.total / (layers * heads):.4g} in the whole model"
    else:
        near = f"{budget.counts[0]} of {heads} = {budget.counts[0] / heads:.4g} in every layer"
    return f"kv-ratio {ratio:g} is no whole number of {heads} heads: taking the nearest, {near}"

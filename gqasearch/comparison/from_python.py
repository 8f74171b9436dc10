"""A comparison from Python, of a parent that is loaded already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gqasearch.api import ParentWithText
from gqasearch.api.one_search import shown_progress
from gqasearch.comparison.compare import compare as compare_in_folder
from gqasearch.comparison.comparison_config import build_comparison
from gqasearch.reporting.comparison import ComparisonData


def compare(
    parent: ParentWithText,
    output_dir: str | Path,
    *,
    fitness: Sequence[str] = (),
    merges: Sequence[str] = ("optimal",),
    kv_ratios: Sequence[float] = (0.5,),
    refine: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> ComparisonData:
    """Fitness functions side by side, as ``gqasearch compare``: does each rank as held-out quality does, and does
    optimising it give better models? ``figures()`` of what comes back draws both answers.

    ``fitness``: their names [default: all]. ``refine``: what is fitted after the merge. ``settings``: the others of a
    comparison (``seeds``, ``evaluations``, ``sample``, ``sample_tokens``, ``methods``, ...). Everything is kept in
    ``output_dir``; the same call goes on where it stopped. Raises ``UserError`` for settings that do not fit.
    """
    with parent.in_folder() as there, shown_progress(progress) as told:
        run = {**there.settings, **({} if refine is None else {"refine": refine})}
        compared = {"fitness": fitness, "merges": merges, "kv_ratios": kv_ratios}
        return compare_in_folder(build_comparison({**compared, **settings, "run": run}), Path(output_dir), told)

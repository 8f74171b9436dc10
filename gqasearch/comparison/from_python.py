"""A comparison from Python, of a parent that is loaded already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gqasearch.api import ParentWithText
from gqasearch.api.one_search import shown_progress
from gqasearch.api.python_words import python_words
from gqasearch.comparison.compare import compare as compare_in_folder
from gqasearch.comparison.comparison_config import build_comparison
from gqasearch.errors import UserError
from gqasearch.fitness import FITNESS, Fitness
from gqasearch.reporting.comparison import ComparisonData


@python_words()
def compare(
    parent: ParentWithText,
    output_dir: str | Path,
    *,
    fitness: Sequence[Fitness | str] = (),
    merges: Sequence[str] = ("optimal",),
    kv_ratios: Sequence[float] = (0.5,),
    refine: str | None = None,
    progress: bool = False,
    **settings: Any,
) -> ComparisonData:
    """Fitness functions side by side, as ``gqasearch compare``: does each rank as held-out quality does, and does
    optimising it give better models? ``figures()`` of what comes back draws both answers.

    ``fitness``: their names, or objects of installed ones with the parameters they are to have [default: all].
    ``refine``: what is fitted after the merge. ``settings``: the others of a comparison (``seeds``, ``evaluations``,
    ``sample``, ``sample_tokens``, ``methods``, ...). Everything is kept in ``output_dir``; the same call goes on where
    it stopped. Raises ``UserError`` for settings that do not fit.
    """
    objects = [one for one in fitness if isinstance(one, Fitness)]
    for one in objects:
        if FITNESS.available().get(one.name) is not type(one):
            raise UserError(
                f"fitness {one.name} is not installed as a plug-in, which a comparison needs, as it may go on in "
                "another process; docs/tutorials/your-own-fitness.md has the three files"
            )
    parameters = {one.name: dict(one.parameters()) for one in objects}
    names = [one.name if isinstance(one, Fitness) else one for one in fitness]
    with parent.in_folder() as there, shown_progress(progress) as told:
        run = {**there.settings, **({} if refine is None else {"refine": refine})}
        compared: dict[str, Any] = {"fitness": names, "merges": merges, "kv_ratios": kv_ratios}
        if parameters:
            compared["fitness_parameters"] = {**settings.pop("fitness_parameters", {}), **parameters}
        return compare_in_folder(build_comparison({**compared, **settings, "run": run}), Path(output_dir), told)

"""What the trials of a sweep can be compared by; lower is better in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gqasearch.errors import UserError
from gqasearch.files import read_json
from gqasearch.grouping_document import GroupingDocument, read_grouping
from gqasearch.models import ModelSource
from gqasearch.run import RunFolder
from gqasearch.steps.measure import CONVERTED


@dataclass(frozen=True)
class Finished:
    """The files of a finished run that objectives are read from."""

    document: GroupingDocument
    result: Mapping[str, Any]
    seconds: Mapping[str, float]

    @classmethod
    def read(cls, folder: RunFolder) -> Finished:
        """Raises ``UserError`` for a run that is not finished."""
        metrics = read_json(folder.metrics)
        return cls(read_grouping(folder.grouping), metrics["results"][CONVERTED], metrics["seconds"])


def _fitness(run: Finished) -> float:
    if run.document.fitness is None:
        raise ValueError("a searched grouping names its fitness")
    return run.document.fitness.value


def _evaluations(run: Finished) -> float:
    if run.document.search is None:
        raise ValueError("a searched grouping names its search")
    return run.document.search.evaluations


# Name -> how it is read. Quality is measured on the validation text.
OBJECTIVES: dict[str, Callable[[Finished], float]] = {
    "kl": lambda run: run.result["kl"],
    "perplexity": lambda run: run.result["perplexity"],
    "bits-per-byte": lambda run: run.result["bits_per_byte"],
    "hidden-error": lambda run: run.result["hidden_error"],
    "kv-ratio": lambda run: run.document.kv_ratio,
    "kv-bytes": lambda run: run.result["kv_bytes_per_token"],
    "seconds": lambda run: sum(run.seconds.get(stage, 0.0) for stage in ("search", "refine", "convert")),
    "evaluations": _evaluations,
    "fitness": _fitness,
}


# Those that a model without a head has not, and the one that only such a model has.
_OF_HEADS, _OF_HEADLESS = ("kl", "perplexity", "bits-per-byte"), ("hidden-error",)


def _measurable(*, headless: bool) -> list[str]:
    others = _OF_HEADS if headless else _OF_HEADLESS
    return [name for name in OBJECTIVES if name not in others]


def measured(folder: RunFolder) -> dict[str, float]:
    """Every objective of a finished run that its model has."""
    run = Finished.read(folder)
    return {name: float(OBJECTIVES[name](run)) for name in _measurable(headless="hidden_error" in run.result)}


def require_measurable(objectives: Sequence[str], model: ModelSource) -> None:
    """Raise ``UserError`` for an objective that there is no figure of for this model, before any trial."""
    known = _measurable(headless=model.family.objective == "hidden-states")
    for name in objectives:
        if name not in known:
            raise UserError(f"objective {name} is not measured of {model.directory}; {', '.join(known)} are")

"""What the trials of a sweep can be compared by; lower is better in all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gqasearch.files import read_json
from gqasearch.grouping_document import GroupingDocument, read_grouping
from gqasearch.run import RunFolder
from gqasearch.run.evaluate import CONVERTED


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
    "kv-ratio": lambda run: run.document.kv_ratio,
    "kv-bytes": lambda run: run.result["kv_bytes_per_token"],
    "seconds": lambda run: sum(run.seconds.get(stage, 0.0) for stage in ("search", "refine", "convert")),
    "evaluations": _evaluations,
    "fitness": _fitness,
}


def measured(folder: RunFolder) -> dict[str, float]:
    """Every objective of a finished run."""
    run = Finished.read(folder)
    return {name: float(read(run)) for name, read in OBJECTIVES.items()}

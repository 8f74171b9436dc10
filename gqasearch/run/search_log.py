"""What a search leaves in its folder: a line of history per generation, and what its evaluations cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gqasearch.evaluation import ForwardCount
from gqasearch.parallel import Evaluator
from gqasearch.run.run_folder import RunFolder
from gqasearch.searching import Generation
from gqasearch.searching.evaluation_log import read_log


def history_record(generation: Generation, seconds: float) -> dict[str, Any]:
    """A generation's line of the history."""
    record: dict[str, Any] = {
        "generation": generation.index,
        "evaluations": generation.evaluations,
        "best": list(generation.best.values),
        "kv_heads_total": generation.best.grouping.kv_heads_total,
        "seconds": seconds,
    }
    if generation.best.final is not None:
        record["final"] = generation.best.final
    return record


class Costs:
    """What evaluations cost since this was last asked: tokens run through the model (None where others ran some, who
    are not counted), and in words the candidates that killed their workers.
    """

    def __init__(self, forwards: ForwardCount, evaluator: Evaluator | None) -> None:
        self._forwards, self._evaluator = forwards, evaluator
        self._tokens, self._failed = 0.0, 0

    def __call__(self) -> dict[str, Any]:
        if self._evaluator is not None:
            failed = self._evaluator.failures[self._failed :]
            self._failed += len(failed)
            return {"tokens": None, **({"failed": failed} if failed else {})}
        before, self._tokens = self._tokens, self._forwards.tokens
        return {"tokens": self._tokens - before} if self._tokens > before else {}


def search_seconds(folder: RunFolder) -> float:
    """Seconds that the search took, over all its restarts."""
    known = folder.known_history()
    return float(known[-1]["seconds"]) if known else 0.0


def search_forward_tokens(folder: RunFolder) -> float | None:
    """Tokens that the search ran through the model, over all its restarts; None where it had workers that are not
    counted. See ``ForwardCount``.
    """
    found: Iterable[float | None] = [record.get("tokens", 0.0) for record in read_log(folder.evaluations)]
    tokens = [one for one in found if one is not None]
    return sum(tokens, start=0.0) if len(tokens) == len(list(found)) else None


def failed_candidates(folder: RunFolder) -> list[str]:
    """In words, the candidates that killed their workers."""
    return [words for record in read_log(folder.evaluations) for words in record.get("failed", [])]

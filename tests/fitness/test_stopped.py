"""What candidates cost is not paid twice when a process is killed: finalists, healed candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gqasearch.fitness import FitnessContext, PreparedTextFitness, make_fitness
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.refining import Descent
from gqasearch.testing import LAYERS, tiny_context
from gqasearch_fitness._text import CandidateLosses
from tests.fitness.test_builtin import SHARED

FINALISTS = [SHARED, Grouping.uniform(LayerGrouping.from_labels([0, 0, 1, 1, 2, 2]), LAYERS)]
SIZES = {"tokens": 64, "refit_tokens": 40, "descent_tokens": 0}
FITNESS: dict[str, dict[str, Any]] = {
    "kl": SIZES,
    "perplexity": SIZES,
    "healed-kl": {**SIZES, "steps": 2, "step_tokens": 32},
}


class Stopped(Exception):  # noqa: N818 - what a kill is to a process
    """Here."""


def prepared(name: str, folder: Path | None) -> PreparedTextFitness:
    context: FitnessContext = replace(tiny_context(), refinement=Descent(steps=2), folder=folder)
    found = make_fitness(name, FITNESS[name]).prepare(context)
    assert isinstance(found, PreparedTextFitness)
    return found


def counting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, stop_at: int = -1) -> list[int]:
    """Notes the calls of a method, and raises at one."""
    calls: list[int] = []
    plain: Callable[..., Any] = getattr(owner, name)

    def counted(*args: Any, **keywords: Any) -> Any:
        if len(calls) == stop_at:
            raise Stopped
        calls.append(len(calls))
        return plain(*args, **keywords)

    monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize("name", FITNESS)
def test_finalists_go_on_at_their_layer(name: str, tmp_path: Path) -> None:
    wanted = prepared(name, None).evaluate_refined(FINALISTS)
    layers = 2 * LAYERS  # of both, one refinement each
    for stop in range(layers):
        folder = tmp_path / str(stop)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):  # noqa: PT012
            counting(patch, Descent, "refine_layer", stop)
            prepared(name, folder).evaluate_refined(FINALISTS)
        with pytest.MonkeyPatch.context() as patch:
            calls = counting(patch, Descent, "refine_layer")
            assert prepared(name, folder).evaluate_refined(FINALISTS).tolist() == wanted.tolist()
        assert len(calls) == layers - stop
        assert not list(folder.glob("refined-*"))
    assert np.isfinite(wanted).all() and wanted[0] != wanted[1]


def test_healed_candidates_are_known(tmp_path: Path) -> None:
    wanted = prepared("healed-kl", None).evaluate(FINALISTS)
    prepared("healed-kl", tmp_path).evaluate(FINALISTS[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CandidateLosses, "__call__", lambda *_: pytest.fail("nothing is run on a part"))
        again = prepared("healed-kl", tmp_path)
        calls = counting(patch, type(again), "_healed")
        assert again.evaluate(FINALISTS).tolist() == wanted.tolist()
    assert len(calls) == 1

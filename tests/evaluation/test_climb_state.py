"""A climb that was stopped goes on at the layer that it had reached, to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gqasearch.evaluation import ClimbState, Converter, LayerStack, ParentLayers, Quality, evaluate_quality
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import Parent
from tests.samples import random_blocks
from tests.tiny_models import VOCAB_SIZE, tiny_parent

LAYERS = 4
BATCH_BYTES = 2 * 24 * 48 * 4 * 3  # hidden states of two blocks in three models
TWO_AT_ONCE = 2 * BATCH_BYTES + 30_000


class Stopped(Exception):  # noqa: N818 - what a kill is to a process
    """Here."""


@pytest.fixture(autouse=True)
def resting_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqasearch.evaluation.climb_state.REST_SECONDS", 0.0)


def measured(
    parent: Parent, state: ClimbState | None, progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[Quality, dict[str, Quality]]:
    """Of the parent and two candidates, on six blocks: two climbs of two batches and one."""
    converter = Converter(parent, make_merge("mean"), lambda: pytest.fail("mean needs no statistics"))
    shared, whole = LayerGrouping.neighbours(6, 2), LayerGrouping.singletons(6)
    rows = {"low": (shared, whole, shared, whole), "high": (whole, whole, shared, shared)}
    stacks: dict[str, LayerStack] = {name: converter.runner(Grouping(row)) for name, row in rows.items()}
    blocks = random_blocks(VOCAB_SIZE, padded=True)
    return evaluate_quality(
        *(ParentLayers(parent), stacks, blocks),
        batch_blocks=2,
        hidden_bytes=TWO_AT_ONCE,
        state=state,
        progress=progress,
    )


def stopping_at(call: int) -> Callable[[int, int], None]:
    calls: list[int] = []

    def progress(done: int, _total: int) -> None:
        calls.append(done)
        if len(calls) == call:
            raise Stopped

    return progress


def test_stopped_at_any_layer_it_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tiny_parent("llama", layers=LAYERS)
    wanted = measured(parent, None)
    loads: list[int] = []
    loaded = Parent.layer_loaded
    monkeypatch.setattr(Parent, "layer_loaded", lambda self, index: loads.append(index) or loaded(self, index))
    calls = 2 * (LAYERS + 1)  # of progress: every layer and the end, of two climbs
    for call in range(1, calls):
        folder = tmp_path / str(call)
        with pytest.raises(Stopped):
            measured(parent, ClimbState(folder, "key"), stopping_at(call))
        loads.clear()
        assert measured(parent, ClimbState(folder, "key")) == wanted
        climb, passed = divmod(call, LAYERS + 1)
        left = [*range(passed, LAYERS), *(range(LAYERS) if climb == 0 else ())]
        assert set(loads) == set(left) and loads[:1] == left[:1]


def test_stopped_again_and_again_it_ends(tmp_path: Path) -> None:
    parent = tiny_parent("llama", layers=LAYERS)
    for _ in range(2 * (LAYERS + 1) - 1):
        with pytest.raises(Stopped):
            measured(parent, ClimbState(tmp_path / "state", "key"), stopping_at(1))
    assert measured(parent, ClimbState(tmp_path / "state", "key")) == measured(parent, None)


def test_stopped_between_predictions_nothing_counts_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tiny_parent("llama", layers=LAYERS)
    wanted = measured(parent, None)
    predict, calls = ParentLayers.predict, [0]

    def failing(self: ParentLayers, hidden: object) -> object:
        calls[0] += 1
        if calls[0] == 5:  # the second batch, of three models
            raise Stopped
        return predict(self, hidden)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ParentLayers, "predict", failing)
        with pytest.raises(Stopped):
            measured(parent, ClimbState(tmp_path / "state", "key"))
    assert measured(parent, ClimbState(tmp_path / "state", "key")) == wanted


def test_what_was_of_something_else_is_not_gone_on_from(tmp_path: Path) -> None:
    parent = tiny_parent("llama", layers=LAYERS)
    with pytest.raises(Stopped):
        measured(parent, ClimbState(tmp_path / "state", "one"), stopping_at(3))
    assert ClimbState(tmp_path / "state", "one").level == 3
    other = ClimbState(tmp_path / "state", "other")
    assert other.level == other.batches == 0 and not list((tmp_path / "state").glob("level-*"))
    assert measured(parent, other) == measured(parent, None)


def test_a_rest_is_taken_when_the_last_is_long_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqasearch.evaluation.climb_state.REST_SECONDS", 3600.0)
    state = ClimbState(tmp_path / "state", "key")
    with pytest.raises(Stopped):
        measured(tiny_parent("llama", layers=LAYERS), state, stopping_at(3))
    assert state.level == 0 and not (tmp_path / "state").exists()

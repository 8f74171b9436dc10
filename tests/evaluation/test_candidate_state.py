"""Candidates that were stopped on their way up go on at the layer that they had reached, to the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import CandidateState, Converter, ParentLayers, ParentLogProbs, PrefixLosses
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import LayerWeights, Parent, tie_heads
from tests.samples import random_blocks
from tests.tiny_models import VOCAB_SIZE, tiny_parent

LAYERS, BATCHES = 4, 3
HIDDEN = 2 * 24 * 48 * 4  # bytes of one batch of two blocks
# Of pairs of a batch and a candidate that go up together, each with a state before a layer and one after it.
TWO, ALL = 2 * 2 * HIDDEN, 2**20
SHARED, MORE, WHOLE = LayerGrouping.neighbours(6, 3), LayerGrouping.neighbours(6, 2), LayerGrouping.singletons(6)
CANDIDATES = [
    Grouping((SHARED, WHOLE, MORE, SHARED)),
    Grouping((SHARED, WHOLE, SHARED, MORE)),
    Grouping((WHOLE, MORE, WHOLE, SHARED)),
]


class Stopped(Exception):  # noqa: N818 - what a kill is to a process
    """Here."""


@pytest.fixture(autouse=True)
def resting_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqasearch.evaluation.candidate_state.REST_SECONDS", 0.0)


class Bench:
    """Losses of a tiny model's candidates; ``ran``: (layer, batch) of every forward through a layer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_before: Callable[[int], bool] = lambda _: False) -> None:
        self.parent, self.ran = tiny_parent("llama", layers=LAYERS), list[int]()
        self.converter = Converter(self.parent, make_merge("mean"), lambda: pytest.fail("mean needs no statistics"))
        self.blocks: TokenBlocks = random_blocks(VOCAB_SIZE, blocks=2 * BATCHES, padded=True)
        self.reference = ParentLogProbs.compute(ParentLayers(self.parent), self.blocks, batch_blocks=2)
        loaded = Parent.layer_loaded

        def counted(parent: Parent, index: int) -> object:
            if stop_before(len(self.ran)):
                raise Stopped
            self.ran.append(index)
            return loaded(parent, index)

        monkeypatch.setattr("gqasearch.evaluation.prefix.Parent.layer_loaded", counted)

    def tied_layer(self, index: int, layer: LayerGrouping) -> LayerWeights:
        return tie_heads(self.converter.merged(index, layer), layer, 1)

    def losses(self, folder: Path | None, together: int = ALL) -> PrefixLosses:
        state = None if folder is None else CandidateState(folder)
        return PrefixLosses(
            *(self.parent, self.tied_layer, self.blocks, 2, self.reference.summed_kl),
            hidden_bytes=together,
            state=state,
        )


def wanted() -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        found: list[float] = Bench(patch).losses(None)(CANDIDATES, range(BATCHES)).tolist()
        return found


@pytest.mark.parametrize(("together", "passes"), [(ALL, 1), (TWO, 5)])
def test_stopped_before_any_layer_they_go_on_there(tmp_path: Path, together: int, passes: int) -> None:
    """``passes``: how often weights are read, for nine pairs at once or two by two."""
    with pytest.MonkeyPatch.context() as patch:
        whole = Bench(patch).losses(None, together)
        values = whole(CANDIDATES, range(BATCHES)).tolist()
    for layer in range(1, LAYERS * passes):
        folder = tmp_path / str(layer)
        with pytest.MonkeyPatch.context() as patch:
            bench = Bench(patch, lambda done, layer=layer: done == layer)  # type: ignore[misc]
            with pytest.raises(Stopped):
                bench.losses(folder, together)(CANDIDATES, range(BATCHES))
        with pytest.MonkeyPatch.context() as patch:
            losses = Bench(patch).losses(folder, together)
            assert losses(CANDIDATES, range(BATCHES)).tolist() == values
            assert losses.layers_run < whole.layers_run


def test_stopped_again_and_again_they_end(tmp_path: Path) -> None:
    values = wanted()
    for _ in range(LAYERS - 1):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            Bench(patch, lambda done: done == 1).losses(tmp_path / "state")(CANDIDATES, range(BATCHES))
    with pytest.MonkeyPatch.context() as patch:
        bench = Bench(patch, lambda done: done == LAYERS)  # layers without anything to run are looked at, too
        assert bench.losses(tmp_path / "state")(CANDIDATES, range(BATCHES)).tolist() == values


def test_what_was_known_is_not_computed_again(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        bench = Bench(patch)
        first = bench.losses(tmp_path / "state")(CANDIDATES[:2], [0, 2])
        bench.ran.clear()
        later = bench.losses(tmp_path / "state")
        assert later(CANDIDATES[:2], [2, 0]).tolist() == first.tolist() and not bench.ran
        later(CANDIDATES[:2], range(BATCHES))  # one batch of three is new
        assert later.tokens_run == 2 * later.batch_tokens[1]
    assert not list((tmp_path / "state").glob("level-*"))


def test_a_line_that_was_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    state = CandidateState(tmp_path)
    state.add([((0, CANDIDATES[0]), 0.1), ((1, CANDIDATES[0]), 1 / 3)])
    whole = path.read_text()
    for cut in (1, 5, 20):
        path.write_text(whole[:-cut])
        again = CandidateState(tmp_path)
        assert (again.loss((0, CANDIDATES[0])), again.loss((1, CANDIDATES[0]))) == (0.1, None)
        again.add([((1, CANDIDATES[0]), 1 / 3)])
        assert CandidateState(tmp_path).loss((1, CANDIDATES[0])) == 1 / 3
    assert all(len(json.loads(line)) == 3 for line in path.read_text().splitlines())


def test_killed_while_it_rests_again_at_a_layer_nothing_is_named_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rest at the same layer takes the place of the first, which the record names."""
    passed = (0, (SHARED,))
    state = CandidateState(tmp_path)
    state.rest(1, {passed: torch.ones(2, 3, 4)})
    assert [name for name, _ in CandidateState(tmp_path).hidden()] == [passed]
    monkeypatch.setattr("gqasearch.evaluation.candidate_state.save_tensors", raising)
    with pytest.raises(Stopped):
        state.rest(1, {passed: torch.ones(2, 3, 4)})
    assert list(CandidateState(tmp_path).hidden()) == []


def raising(*_arguments: object) -> None:
    raise Stopped


def test_a_rest_is_taken_when_the_last_is_long_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqasearch.evaluation.candidate_state.REST_SECONDS", 3600.0)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        Bench(patch, lambda done: done == 3).losses(tmp_path / "state")(CANDIDATES, range(BATCHES))
    assert not (tmp_path / "state").exists()

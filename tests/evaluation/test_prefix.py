"""Losses from kept prefixes against whole runs, and that nothing depends on what was asked before."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import Converter, ParentLogProbs, PrefixLosses, evaluate_quality, model_runner
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import LayerWeights, Parent, tie_heads
from tests.matrix import FAMILIES
from tests.samples import random_blocks
from tests.tiny_models import VOCAB_SIZE, tiny_parent

LAYERS, HEADS, BATCHES = 4, 6, 3
ROWS = ([0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], [0, 1, 0, 0, 2, 1], [0, 0, 0, 0, 0, 0])
FULL = 2 * 24  # tokens of a batch of two blocks


@cache
def parent_of(family: str) -> Parent:
    return tiny_parent(family, layers=LAYERS)


@cache
def text() -> TokenBlocks:
    """Three batches of two blocks, the last half padded."""
    return random_blocks(VOCAB_SIZE, blocks=2 * BATCHES, padded=True)


@cache
def converter(family: str) -> Converter:
    return Converter(parent_of(family), make_merge("mean"), lambda: pytest.fail("mean needs no statistics"))


@cache
def reference(family: str) -> ParentLogProbs:
    return ParentLogProbs.compute(model_runner(parent_of(family).model), text(), batch_blocks=2)


def losses_of(family: str = "llama", converted: list[int] | None = None, **bounds: int) -> PrefixLosses:
    """``converted``: notes the layers that were asked for."""

    def tied_layer(index: int, layer: LayerGrouping) -> LayerWeights:
        if converted is not None:
            converted.append(index)
        return tie_heads(converter(family).layer_merge(index).merge(layer), layer, 1)

    return PrefixLosses(parent_of(family), tied_layer, text(), 2, reference(family).summed_kl, **bounds)


def grouping(*rows: int) -> Grouping:
    return Grouping(tuple(LayerGrouping.from_labels(ROWS[row]) for row in rows))


groupings = st.lists(st.integers(0, 3), min_size=LAYERS, max_size=LAYERS).map(lambda rows: grouping(*rows))
everything = range(BATCHES)


@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_kl_of_the_converted_model(family: str) -> None:
    losses = losses_of(family)
    candidates = [grouping(0, 0, 0, 0), grouping(1, 2, 3, 0), grouping(1, 2, 0, 1), grouping(0, 0, 0, 3)]
    found = losses(candidates, everything)
    wanted = [reference(family).mean_kl(converter(family).runner(candidate)) for candidate in candidates]
    assert found.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert found[0] == pytest.approx(0.0, abs=1e-6) and min(found[1:]) > 1e-3


def test_any_loss_can_be_measured() -> None:
    batches = list(text().batches(2))

    def summed_nll(batch: int, scores: Tensor, rows: slice) -> float:
        ids, mask = batches[batch]
        tokens = ids[:, 1:][mask[:, 1:]][rows]
        return float(-scores.log_softmax(-1).gather(-1, tokens[:, None]).sum())

    def tied_layer(index: int, layer: LayerGrouping) -> LayerWeights:
        return tie_heads(converter("llama").layer_merge(index).merge(layer), layer, 1)

    losses = PrefixLosses(parent_of("llama"), tied_layer, text(), 2, summed_nll)
    candidate = grouping(1, 2, 3, 0)
    runners = {"candidate": converter("llama").runner(candidate)}
    _, found = evaluate_quality(model_runner(parent_of("llama").model), runners, text())
    assert losses([candidate], everything)[0] == pytest.approx(found["candidate"].nll, rel=1e-6)


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.lists(groupings, min_size=1, max_size=3), st.sets(st.sampled_from(everything), min_size=1))),
    groupings,
    st.sampled_from([{}, {"hidden_bytes": 30_000, "weight_bytes": 50_000}, {"hidden_bytes": 0, "weight_bytes": 0}]),
)
def test_nothing_depends_on_what_was_asked_before(
    history: list[tuple[list[Grouping], set[int]]], candidate: Grouping, bounds: dict[str, int]
) -> None:
    used = losses_of("llama", None, **bounds)
    for candidates, batches in history:
        used(candidates, sorted(batches))
    fresh = losses_of()
    assert used([candidate], everything).tolist() == fresh([candidate], everything).tolist()


@given(groupings, st.permutations(everything), st.integers(1, BATCHES))
@settings(max_examples=10)
def test_some_batches_are_averaged_by_their_targets(candidate: Grouping, order: list[int], count: int) -> None:
    losses, chosen = losses_of(), order[:count]
    kept = reference("llama")
    alone = [losses([candidate], [batch])[0] for batch in chosen]
    targets = [kept.targets[batch].count for batch in chosen]
    assert kept.targets[0].count == 2 * 23 and kept.targets[2].count == 23 + 11
    wanted = sum(a * b for a, b in zip(alone, targets, strict=True)) / sum(targets)
    assert losses([candidate], chosen)[0] == pytest.approx(wanted, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_candidate_costs_the_layers_from_its_first_change_on(layer: int) -> None:
    converted: list[int] = []
    losses = losses_of(converted=converted)
    first = grouping(1, 1, 1, 1)
    losses([first], [0])
    assert (losses.tokens_run, losses.layers_run, converted) == (FULL, FULL * LAYERS, [0, 1, 2, 3])
    changed = first.replace_layer(layer, LayerGrouping.from_labels(ROWS[2]))
    losses([changed], [0])
    assert losses.tokens_run == 2 * FULL
    assert losses.layers_run == FULL * (LAYERS + LAYERS - layer)
    assert converted == [0, 1, 2, 3, layer]
    losses([first, changed], [0])
    assert losses.tokens_run == 2 * FULL, "a known loss was computed again"
    losses([changed], [2])
    assert losses.tokens_run == 2 * FULL + 24 + 12 == 2 * FULL + losses.batch_tokens[2]
    assert converted == [0, 1, 2, 3, layer], "a converted layer was made again"


@settings(max_examples=15)
@given(
    st.lists(groupings, min_size=2, max_size=6),
    st.sampled_from([{}, {"hidden_bytes": 60_000}, {"hidden_bytes": 0, "weight_bytes": 0}]),
)
def test_nothing_depends_on_what_goes_up_together(candidates: list[Grouping], bounds: dict[str, int]) -> None:
    together = losses_of("llama", None, **bounds)(candidates, everything).tolist()
    assert together == [losses_of()([candidate], everything)[0] for candidate in candidates]


def test_a_layer_is_loaded_once_for_all_that_go_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    loaded = Parent.layer_loaded
    monkeypatch.setattr(Parent, "layer_loaded", lambda self, index: loads.append(index) or loaded(self, index))
    candidates = [grouping(1, 2, 3, row) for row in range(4)] + [grouping(2, 2, 2, 2), grouping(0, 1, 1, 1)]
    losses = losses_of()
    losses(candidates, everything)
    assert loads == [0, 1, 2, 3]
    # By layer: three, three, three and six different hidden states of every batch leave it.
    assert losses.layers_run == (3 + 3 + 3 + 6) * sum(losses.batch_tokens)
    assert losses.tokens_run == 6 * sum(losses.batch_tokens)
    loads.clear()
    losses_of(hidden_bytes=2 * 3 * 2 * 24 * 48 * 4)(candidates, [0, 1])  # room for three states and what they become
    assert loads == 4 * [0, 1, 2, 3]


def test_layers_left_whole_are_not_converted() -> None:
    converted: list[int] = []
    losses_of(converted=converted)([grouping(0, 1, 0, 3)], [0])
    assert converted == [1, 3]


def test_bounds_on_memory_hold() -> None:
    losses = losses_of(hidden_bytes=30_000, weight_bytes=50_000)
    for rows in ((1, 2, 1, 2), (2, 1, 3, 1), (3, 3, 1, 0), (1, 2, 3, 3)):
        losses([grouping(*rows)], everything)
    assert 0 < losses._hidden.bytes <= 30_000
    assert 0 < losses._weights.bytes <= 50_000


def test_the_parent_is_left_as_it_was() -> None:
    model = parent_of("opt").model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses_of("opt")([grouping(1, 2, 3, 0), grouping(1, 2, 3, 1)], everything)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

"""Norms over the keys of all heads: what is written, what the mean of the norm becomes, and what reordering changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gqasearch.checkpoints.layout import lay_out
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.merging.norm_scale import with_mean_norms
from gqasearch.models import LayerWeights, layers_replaced, tie_heads
from gqasearch.models.whole_norm import folded, rows_for_groups, stored_heads
from tests.models.test_families import attention_call
from tests.models.test_more_families import statistics_of
from tests.samples import logits_of, random_blocks
from tests.tiny_models import tiny_parent

GROUPING = LayerGrouping.from_labels([0, 0, 1, 0, 2, 1])


def keys_of(rows: Tensor, gain: Tensor, x: Tensor) -> Tensor:
    """Keys (B, T, G, d) as the model computes them of what is stored."""
    made = torch.einsum("btx,gdx->btgd", x, rows)
    return made * (made.square().mean((2, 3), keepdim=True) + 1e-6).rsqrt() * gain


def test_what_is_written_gives_the_heads_in_the_sizes_of_the_source() -> None:
    layer = tiny_parent("olmo2").layer(0)
    assert layer.k_rows is not None and layer.k_gain is not None
    louder = 3 * layer.k.roll(1, 0)
    rows, gain = stored_heads(louder, layer.k_rows, layer.k_gain)
    torch.testing.assert_close(folded(rows, gain), louder)
    torch.testing.assert_close(rows.norm(dim=-1), layer.k_rows.norm(dim=-1))
    same_rows, same_gain = stored_heads(layer.k, layer.k_rows, layer.k_gain)
    assert torch.equal(same_rows, layer.k_rows) and torch.equal(same_gain, layer.k_gain)


def test_gradients_flow_also_through_heads_that_are_the_source_s() -> None:
    layer = tiny_parent("olmo2").layer(0)
    assert layer.k_rows is not None and layer.k_gain is not None
    heads = layer.k.clone().requires_grad_()
    rows, gain = stored_heads(heads, layer.k_rows, layer.k_gain)
    (rows.sum() + gain.sum()).backward()
    assert heads.grad is not None and bool(heads.grad.any((1, 2)).all())
    torch.testing.assert_close(folded(rows, gain), layer.k)


def test_a_norm_over_groups_divides_by_what_the_tied_heads_norm_does() -> None:
    """Groups of unlike sizes, each once among three, against every head with its group's key."""
    parent = tiny_parent("olmo2")
    merged = make_merge("mean").for_layer(parent.layer(0)).merge(GROUPING)
    x, _ = attention_call(parent, 0)
    written = []
    for layer in (tie_heads(merged, GROUPING, 1), rows_for_groups(merged, GROUPING)):
        tensors = parent.family.write_layer(layer, 0)
        rows, gain = (tensors[parent.family.tensor_name(0, role)] for role in ("k.weight", "k_norm"))
        written.append(keys_of(rows.unflatten(0, (-1, 8)), gain.unflatten(0, (-1, 8)), x))
    torch.testing.assert_close(written[1][:, :, list(GROUPING.labels)], written[0], atol=1e-5, rtol=1e-5)


def test_empty_slots_leave_the_norm_of_the_queries_as_it_was() -> None:
    parent = tiny_parent("olmo2")
    layer, x = parent.layer(0), attention_call(parent, 0)[0]
    slots = (0, 1, None, 2, 3, None, 4, 5, None)
    found = []
    for one in (layer, lay_out(layer, slots)):
        tensors = parent.family.write_layer(one, 0)
        rows, gain = (tensors[parent.family.tensor_name(0, role)] for role in ("q.weight", "q_norm"))
        found.append(keys_of(rows.unflatten(0, (-1, 8)), gain.unflatten(0, (-1, 8)), x))
    used = [slot for slot, query in enumerate(slots) if query is not None]
    torch.testing.assert_close(found[1][:, :, used], found[0], atol=1e-5, rtol=1e-5)
    assert not found[1][:, :, 2].any()


@pytest.mark.parametrize("name", ["mean", "optimal"])
def test_what_norms_divide_by_stays_on_average(name: str, tmp_path: Path) -> None:
    parent = tiny_parent("olmoe")
    statistics, source = statistics_of(parent, tmp_path)[1], parent.layer(1)
    bound, moment = make_merge(name).for_layer(source, statistics), statistics.second_moment
    alone = bound.merged_alone(GROUPING)
    assert source.k_rows is not None and source.k_gain is not None and alone.k_rows is not None
    tied = tie_heads(alone, GROUPING, 1)
    assert tied.k_rows is not None
    rows, _ = stored_heads(tied.k, tied.k_rows, source.k_gain)

    def divided_by(rows: Tensor) -> Tensor:
        return torch.einsum("hdx,xy,hdy->", rows.double(), moment, rows.double()).sqrt()

    wanted = divided_by(rows) / divided_by(source.k_rows)
    assert abs(float(wanted) - 1) > 0.01
    made_up = with_mean_norms(source, alone, GROUPING, moment)
    torch.testing.assert_close(made_up.k, alone.k * wanted.to(alone.k), atol=1e-6, rtol=1e-5)
    assert torch.equal(bound.merge(GROUPING).k, made_up.k) and torch.equal(made_up.v, alone.v)


def test_query_heads_in_another_order_change_nothing() -> None:
    parent = tiny_parent("olmo2")
    blocks = random_blocks(parent.config["vocab_size"])
    before, order = logits_of(parent, blocks), [3, 1, 0, 5, 4, 2]

    def moved(layer: LayerWeights) -> LayerWeights:
        placed = lay_out(layer, tuple(order), order)
        assert placed.q_rows is not None and layer.q_rows is not None
        assert torch.equal(placed.q_rows, layer.q_rows[order])
        return placed

    with layers_replaced(parent, {0: moved(parent.layer(0)), 1: moved(parent.layer(1))}):
        torch.testing.assert_close(logits_of(parent, blocks), before, atol=2e-5, rtol=1e-5)

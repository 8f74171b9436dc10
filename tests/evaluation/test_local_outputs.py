"""One layer's W_o, refitted: against ridge regression on head outputs computed the plain way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gqasearch.evaluation import LocalOutputs
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import LayerWeights, Parent, decoder_layer, layers_replaced, tie_heads
from tests.samples import logits_of, random_blocks
from tests.tiny_models import FAMILY_NAMES, VOCAB_SIZE, tiny_parent

CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in (*FAMILY_NAMES, "gpt_neox", "opt")),
    *((family, {"kv_heads": 3}) for family in FAMILY_NAMES),
    ("llama", {"attention_bias": True}),
]
OUTPUTS = {"gpt_neox": "attention.dense", "opt": "self_attn.out_proj"}
BLOCKS = random_blocks(VOCAB_SIZE, blocks=8, padded=True)
BLOCKS.mask[1, 10:] = False  # padding is not only at the end of the text


def tied(parent: Parent, index: int, groups: int) -> LayerWeights:
    """The layer, neighbours merged by their mean, in the parent's shape."""
    heads = parent.geometry.num_kv_heads
    layer = LayerGrouping.neighbours(heads, groups)
    merged = make_merge("mean").for_layer(parent.layer(index), None).merge(layer)
    return tie_heads(merged, layer.labels, parent.geometry.queries_per_kv)


def projection_of(parent: Parent, family: str, index: int) -> torch.nn.Linear:
    module = decoder_layer(parent, index).get_submodule(OUTPUTS.get(family, "self_attn.o_proj"))
    assert isinstance(module, torch.nn.Linear)
    return module


def heads_and_output(parent: Parent, family: str, index: int) -> tuple[Tensor, Tensor]:
    """What W_o is given and gives at tokens that are no padding, in a run of the whole model."""
    seen: list[Tensor] = []
    projection = projection_of(parent, family, index)
    handle = projection.register_forward_hook(lambda _module, args, out: seen.extend((args[0], out)))
    logits_of(parent, BLOCKS)
    handle.remove()
    return seen[0][BLOCKS.mask].double(), seen[1][BLOCKS.mask].double()


@pytest.mark.parametrize(("family", "options"), CASES)
def test_is_the_ridge_regression_to_the_parents_output(family: str, options: dict[str, Any]) -> None:
    """In the first layer the block's own input is the parent's, so a run of the whole converted model tells."""
    parent, ridge = tiny_parent(family, **options), 0.01
    start = tied(parent, 0, 2)
    _, wanted = heads_and_output(parent, family, 0)
    with layers_replaced(parent, {0: start}):
        z, given = heads_and_output(parent, family, 0)
    bias: Tensor | None = getattr(projection_of(parent, family, 0), "bias", None)
    assert (bias is not None) == (family in OUTPUTS or "attention_bias" in options)
    target = wanted if bias is None else wanted - bias.detach().double()
    matrix = start.o.transpose(0, 1).flatten(1).double()
    scale = (ridge * z.square().sum(0).mean()).sqrt()
    rows = torch.cat([z, scale * torch.eye(z.shape[1], dtype=z.dtype)])
    solution = torch.linalg.lstsq(rows, torch.cat([target, scale * matrix.T])).solution.T
    found = LocalOutputs(parent, BLOCKS, ridge=ridge, batch_blocks=3).refit(0, start)
    refitted = found.o.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(refitted, solution, atol=1e-4, rtol=1e-4)
    left = (target - z @ refitted.T).square().sum()
    assert left < 0.9 * (wanted - given).square().sum()
    for name in ("q", "k", "v", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm"):
        assert getattr(found, name) is getattr(start, name)


def test_a_higher_layer_is_fitted_on_the_parents_own_input() -> None:
    """Layers below converted or not: the same fit. The reference replaces this layer alone."""
    parent = tiny_parent("llama", layers=3)
    start = tied(parent, 2, 2)
    _, wanted = heads_and_output(parent, "llama", 2)
    with layers_replaced(parent, {2: start}):
        z, _ = heads_and_output(parent, "llama", 2)
    local = LocalOutputs(parent, BLOCKS, ridge=1e-12)
    found = local.refit(2, start).o.transpose(0, 1).flatten(1).double()
    plain = torch.linalg.lstsq(z, wanted).solution.T
    errors = [float((wanted - z @ matrix.T).square().sum()) for matrix in (found, plain)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-4)
    assert torch.equal(local.refit(2, start).o, local.refit(2, start).o)


@pytest.mark.parametrize(("family", "options"), CASES)
def test_nothing_shared_is_left_as_it_is(family: str, options: dict[str, Any]) -> None:
    parent = tiny_parent(family, **options)
    local = LocalOutputs(parent, BLOCKS)
    for index in range(2):
        layer = parent.layer(index)
        torch.testing.assert_close(local.refit(index, layer).o, layer.o, atol=1e-5, rtol=1e-4)


def test_a_strong_ridge_keeps_the_merge() -> None:
    parent = tiny_parent("qwen3")
    start = tied(parent, 1, 2)
    found = LocalOutputs(parent, BLOCKS, ridge=1e9).refit(1, start)
    torch.testing.assert_close(found.o, start.o, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", ["opt", "gpt_neox", "llama"])
def test_the_parent_is_left_as_it_was(family: str) -> None:
    parent = tiny_parent(family)
    before = {name: tensor.clone() for name, tensor in parent.model.state_dict().items()}
    local = LocalOutputs(parent, BLOCKS)
    local.refit(0, tied(parent, 0, 2))
    with pytest.raises(RuntimeError):
        local.refit(0, replace(parent.layer(0), v=parent.layer(0).v[..., :-1]))  # the width is wrong
    assert all(torch.equal(before[name], tensor) for name, tensor in parent.model.state_dict().items())
    for module in parent.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks

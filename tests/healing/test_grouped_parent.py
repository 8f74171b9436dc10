"""The grouped parent computes what the tied runner does, in every family, and gradients reach every weight."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import model_runner, tied_runner
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.healing import GroupedParent
from gqasearch.models import LayerWeights, Parent, tie_heads
from gqasearch.refining.grouped_parent import TRAINED
from tests.healing.parents import SOURCES, blocks_for, grouping_for, mean_merged, parent_of
from tests.tiny_models import tiny_model, tiny_parent


def tied(parent: Parent, grouping: Grouping, layers: dict[int, LayerWeights]) -> dict[int, LayerWeights]:
    m = parent.geometry.queries_per_kv
    return {index: tie_heads(layer, grouping.layers[index], m) for index, layer in layers.items()}


def run(model: GroupedParent, blocks: TokenBlocks) -> torch.Tensor:
    logits: torch.Tensor = model(blocks.ids, blocks.mask.long()).logits
    return logits


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_logits_are_those_of_the_tied_runner_and_gradients_reach_every_weight(family: str, kv_heads: int) -> None:
    parent, blocks = parent_of(family, kv_heads), blocks_for(family)
    grouping = grouping_for(kv_heads)
    layers = mean_merged(parent, grouping)
    model = GroupedParent(parent, grouping, layers)
    logits = run(model, blocks)
    assert torch.equal(logits, tied_runner(parent, tied(parent, grouping, layers))(blocks.ids, blocks.mask))
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name
    assert all(parameter.grad is None for parameter in parent.model.parameters())
    for index, layer in layers.items():
        for name in TRAINED:
            before, after = getattr(layer, name), getattr(model.layer(index), name)
            assert (before is None) == (after is None)
            assert before is None or (torch.equal(before, after) and not after.requires_grad)


def test_a_groups_gradient_is_the_sum_of_its_heads() -> None:
    parent, blocks = parent_of("qwen2", 3), blocks_for("qwen2")
    grouping = grouping_for(3)
    layers = mean_merged(parent, grouping)
    grouped = GroupedParent(parent, grouping, layers)
    # The same function with a copy of K and V for every head.
    alone = Grouping.uniform(LayerGrouping.singletons(3), 2)
    separate = GroupedParent(parent, alone, tied(parent, grouping, layers))
    for model in (grouped, separate):
        run(model, blocks).square().mean().backward()
    for index, layer in enumerate(grouping):
        for name in ("k", "v", "k_bias", "v_bias"):
            by_group, by_head = (getattr(model.layers[index], name).grad for model in (grouped, separate))
            for group, heads in enumerate(layer.groups):
                torch.testing.assert_close(by_group[group], by_head[list(heads)].sum(0), rtol=1e-4, atol=1e-6)


def test_a_layer_that_is_not_given_is_the_parents_own() -> None:
    parent, blocks = tiny_parent("llama"), blocks_for("llama")
    grouping = Grouping((LayerGrouping.singletons(6), LayerGrouping.neighbours(6, 2)))
    merged = mean_merged(parent, grouping)
    found = run(GroupedParent(parent, grouping, {1: merged[1]}), blocks)
    assert torch.equal(found, run(GroupedParent(parent, grouping, merged), blocks))
    with pytest.raises(ValueError, match="6 KV heads for 2 groups"):
        GroupedParent(parent, grouping, {})


@pytest.mark.parametrize("embeddings", ["tied", "apart"])
def test_the_whole_model_is_trained_and_the_parent_stays(embeddings: str) -> None:
    parent, blocks = tiny_parent("qwen3", tied=embeddings == "tied"), blocks_for("qwen3")
    before = copy.deepcopy(parent.model.state_dict())
    grouping = grouping_for(6)
    model = GroupedParent(parent, grouping, mean_merged(parent, grouping), whole=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run(model, blocks).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in parent.model.state_dict().items())
    # What was trained, put into a copy of the parent, computes the same.
    trained = copy.deepcopy(parent.model)
    written = model.rest_tensors()
    for index, layer in tied(parent, grouping, {i: model.layer(i) for i in range(2)}).items():
        written |= parent.family.write_layer(layer, index)
    trained.load_state_dict(written, strict=False)
    assert written.keys() == dict(trained.named_parameters()).keys()
    torch.testing.assert_close(run(model, blocks), model_runner(trained)(blocks.ids, blocks.mask))
    assert not torch.equal(written["model.norm.weight"], before["model.norm.weight"])


def test_weights_are_kept_in_float32_and_run_in_the_parents_dtype() -> None:
    parent, blocks = Parent.from_model(tiny_model("llama", dtype=torch.bfloat16)), blocks_for("llama")
    grouping = grouping_for(6)
    layers = mean_merged(parent, grouping)
    model = GroupedParent(parent, grouping, layers, whole=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    found = run(model, blocks)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.float(), tied_runner(parent, tied(parent, grouping, layers))(blocks.ids, blocks.mask))


def test_labels_give_the_loss_of_the_parents_class() -> None:
    parent, blocks = tiny_parent("llama"), blocks_for("llama")
    alone = Grouping.uniform(LayerGrouping.singletons(6), 2)
    found = GroupedParent(parent, alone, {})(blocks.ids, labels=blocks.ids)
    wanted = parent.model(blocks.ids, labels=blocks.ids)
    torch.testing.assert_close(found.loss, wanted.loss)


def test_its_state_goes_into_another_and_its_copy_is_its_own() -> None:
    parent, blocks = tiny_parent("opt"), blocks_for("opt")
    grouping = grouping_for(6)
    layers = mean_merged(parent, grouping)
    changed = GroupedParent(parent, grouping, {i: replace(layer, q=2 * layer.q) for i, layer in layers.items()})
    model = GroupedParent(parent, grouping, layers)
    assert not torch.equal(run(model, blocks), run(changed, blocks))
    model.load_state_dict(changed.state_dict())
    assert torch.equal(run(model, blocks), run(changed, blocks))
    with torch.no_grad():
        model.layers[0].q.zero_()
    assert changed.layers[0].q.any() and layers[0].q.any()

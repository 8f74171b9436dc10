"""What every refinement owes: exactness where nothing is lost, a criterion that never rises, a parent left alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.errors import UserError
from gqasearch.evaluation import evaluate_quality, model_runner
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import MERGES
from gqasearch.models import LayerWeights, layers_replaced, tie_heads
from gqasearch.refining import REFINEMENTS, Descent, make_refinement
from tests.matrix import FAMILIES, SOURCES, sampled
from tests.refining.cases import (
    REFINING,
    THIRDS,
    blocks_of,
    converter_of,
    copied_heads,
    refinement,
    site_error,
    site_of,
    state_of,
    untouched,
)
from tests.samples import logits_of
from tests.tiny_models import FAMILY_NAMES, tiny_parent

SINGLE, PAIRS = LayerGrouping.singletons(6), LayerGrouping.neighbours(6, 3)


def equal_layers(a: dict[int, LayerWeights], b: dict[int, LayerWeights]) -> bool:
    names = ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias")
    pairs = [(getattr(a[index], name), getattr(b[index], name)) for index in a for name in names]
    return set(a) == set(b) and all(x is y is None or torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("name", sorted(REFINEMENTS))
def test_nothing_shared_is_left_alone(name: str, tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    steps: list[int] = []
    found = converter_of(parent, tmp_path).refine(
        Grouping.uniform(SINGLE, 2), blocks_of(parent), refinement(name), progress=lambda done, _: steps.append(done)
    )
    assert found == {} and steps == []
    assert refinement(name).total_steps(Grouping.uniform(SINGLE, 2)) == 0


def test_none_reads_no_text_and_changes_nothing(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    assert not refinement("none").reads_text
    assert converter_of(parent, tmp_path).refine(THIRDS, blocks_of(parent), refinement("none")) == {}


@pytest.mark.parametrize("name", REFINING)
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_copies_leave_logits_where_they_were(family: str, name: str, tmp_path: Path) -> None:
    """The parent's odd heads are copies of even ones; sharing them loses nothing, refining must not either."""
    parent = tiny_parent(family)
    with layers_replaced(parent, {index: copied_heads(parent.layer(index)) for index in range(2)}):
        before, blocks = logits_of(parent, blocks_of(parent)), blocks_of(parent)
        converter = converter_of(parent, tmp_path, "mean")
        refined = converter.refine(Grouping.uniform(PAIRS, 2), blocks, refinement(name))
        with layers_replaced(parent, converter.tied_layers(Grouping.uniform(PAIRS, 2), refined)):
            after = logits_of(parent, blocks)
    assert set(refined) == {0, 1}
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", REFINING)
@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_every_family_comes_closer_to_its_parent(family: str, kv_heads: int, name: str, tmp_path: Path) -> None:
    parent = tiny_parent(family, kv_heads=kv_heads)
    before, blocks = state_of(parent), blocks_of(parent, padded=True)
    converter = converter_of(parent, tmp_path)
    grouping = Grouping.uniform(LayerGrouping.neighbours(kv_heads, 2), 2)
    refined = converter.refine(grouping, blocks, refinement(name))
    runners = {"plain": converter.runner(grouping), "refined": converter.runner(grouping, refined)}
    _, found = evaluate_quality(model_runner(parent.model), runners, blocks)
    assert found["refined"].kl < 0.9 * found["plain"].kl
    site = site_of(parent, grouping, blocks)
    errors = [site_error(site, weights) for weights in (converter.merged_layer(grouping, 0), refined[0])]
    assert errors[1] < 0.95 * errors[0]
    assert untouched(parent, before)


@pytest.mark.parametrize("rate", [1e-4, 0.05, 3.0])
@pytest.mark.parametrize("merge", ["mean", "optimal"])
def test_the_criterion_never_rises_whatever_the_learning_rate(merge: str, rate: float, tmp_path: Path) -> None:
    """Layer 0, where the criterion before and after is about the same inputs. A rate of 3 wrecks the weights."""
    parent = tiny_parent("llama")
    converter, blocks = converter_of(parent, tmp_path, merge), blocks_of(parent)
    site = site_of(parent, THIRDS, blocks)
    outputs = converter.refine(THIRDS, blocks, refinement("outputs"), batch_blocks=Descent.batch_blocks)
    descent = converter.refine(THIRDS, blocks, refinement("descent", learning_rate=rate))
    merged, fitted, moved = (
        site_error(site, weights) for weights in (converter.merged_layer(THIRDS, 0), outputs[0], descent[0])
    )
    assert fitted < merged
    if rate == 3.0:
        assert equal_layers({0: outputs[0]}, {0: descent[0]})
    else:
        assert moved < fitted


@pytest.mark.parametrize("name", REFINING)
def test_layers_without_groups_stay_the_parents(name: str, tmp_path: Path) -> None:
    """Below, between and above grouped layers; and a layer above feels what was converted below it."""
    parent = tiny_parent("llama", layers=5)
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent, blocks=8)
    seen: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    grouping = Grouping((SINGLE, PAIRS, SINGLE, PAIRS, SINGLE))
    found = converter.refine(grouping, blocks, refinement(name), progress=note)
    assert set(found) == {1, 3}
    total = refinement(name).total_steps(grouping)
    assert seen == [(done + 1, total) for done in range(total)]
    alone = converter.refine(Grouping((SINGLE, SINGLE, SINGLE, PAIRS, SINGLE)), blocks, refinement(name))
    assert set(alone) == {3} and not torch.equal(alone[3].o, found[3].o)
    first = converter.refine(Grouping((SINGLE, PAIRS, SINGLE, SINGLE, SINGLE)), blocks, refinement(name))
    # What is above a layer changes it only where all are fitted together.
    assert equal_layers(first, {1: found[1]}) == (name != "joint")


@pytest.mark.parametrize("name", REFINING)
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_never_counts_and_bits_repeat(family: str, name: str, tmp_path: Path) -> None:
    parent = tiny_parent(family)
    converter = converter_of(parent, tmp_path)
    blocks = blocks_of(parent, blocks=6, padded=True)
    ids = blocks.ids.clone()
    ids[~blocks.mask] = 7
    assert not torch.equal(ids, blocks.ids)
    first, again, other = (
        converter.refine(THIRDS, text, refinement(name)) for text in (blocks, blocks, replace(blocks, ids=ids))
    )
    assert equal_layers(first, again)
    assert equal_layers(first, other)


@pytest.mark.parametrize("name", REFINING)
def test_groups_keep_one_key_and_value(name: str, tmp_path: Path) -> None:
    parent = tiny_parent("qwen2")
    refined = converter_of(parent, tmp_path).refine(THIRDS, blocks_of(parent), refinement(name))
    for layer in refined.values():
        assert layer.k.shape == layer.v.shape == (2, 8, 48) and layer.k_bias is not None
        assert layer.k_bias.shape == (2, 8) and layer.q.shape == (6, 8, 48) and layer.o.shape == (6, 48, 8)
        assert layer.k.dtype == torch.float32 and not any(t.requires_grad for t in (layer.q, layer.k, layer.v, layer.o))


@pytest.mark.parametrize("name", REFINING)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parents_in_half_precision(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Biases, head norms and masks in half precision; what is fitted is float32."""
    for family in ("qwen2", "qwen3", "gpt_neox", "falcon", "opt"):
        parent = tiny_parent(family, dtype=dtype)
        before, blocks = state_of(parent), blocks_of(parent, padded=True)
        converter = converter_of(parent, tmp_path)
        refined = converter.refine(THIRDS, blocks, refinement(name))
        assert refined[0].q.dtype == torch.float32
        runners = {"plain": converter.runner(THIRDS), "refined": converter.runner(THIRDS, refined)}
        _, found = evaluate_quality(model_runner(parent.model), runners, blocks)
        assert found["refined"].kl < 0.9 * found["plain"].kl
        assert untouched(parent, before)


@pytest.mark.parametrize("at", sampled([1, 2, 5, 11, 15], [1, 5, 11]))
def test_the_parent_is_as_it_was_after_an_error(at: int, tmp_path: Path) -> None:
    """Wherever it happens: in the regression, between steps, between layers."""
    parent = tiny_parent("opt")
    before, converter = state_of(parent), converter_of(parent, tmp_path)

    def stop(done: int, total: int) -> None:
        if done == at:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        converter.refine(THIRDS, blocks_of(parent), refinement("descent"), progress=stop)
    assert untouched(parent, before)


def test_an_error_inside_the_model_leaves_no_trace(tmp_path: Path) -> None:
    """Ids beyond the vocabulary in the last batch; an output of a wrong shape."""
    parent = tiny_parent("llama")
    before, converter = state_of(parent), converter_of(parent, tmp_path)
    blocks = blocks_of(parent)
    bad = TokenBlocks(torch.cat([blocks.ids[:-1], blocks.ids[-1:] + 10**6]), blocks.mask, "bad")
    with pytest.raises(IndexError):
        converter.refine(THIRDS, bad, refinement("descent"))
    assert untouched(parent, before)
    site = site_of(parent, THIRDS, blocks)
    merged = converter.merged_layer(THIRDS, 0)
    with pytest.raises(RuntimeError, match="size"):
        Descent(steps=3, validate=False).refine_layer(site, replace(merged, o=merged.o[:, :5]), lambda: None)
    assert untouched(parent, before)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_refined_layers_tie_to_what_was_fitted(family: str, tmp_path: Path) -> None:
    """The site computes what the parent computes with the refined layer in place."""
    parent = tiny_parent(family, kv_heads=3)
    grouping = Grouping((LayerGrouping.neighbours(3, 2), LayerGrouping.singletons(3)))
    blocks = blocks_of(parent, blocks=4)
    refined = converter_of(parent, tmp_path).refine(grouping, blocks, refinement("descent"))[0]
    site = site_of(parent, grouping, blocks)
    seen: list[torch.Tensor] = []
    handle = parent.model.model.layers[0].self_attn.register_forward_hook(lambda _m, _a, out: seen.append(out[0]))
    with layers_replaced(parent, {0: tie_heads(refined, grouping.layers[0], 2)}):
        logits_of(parent, blocks)
    handle.remove()
    with torch.no_grad():
        torch.testing.assert_close(site.attend(refined, site.calls[0]), seen[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("descnt", {}, "unknown refinement 'descnt'; did you mean 'descent'"),
        ("descent", {"step": 3}, "unknown parameter of refinement descent 'step'; did you mean 'steps'"),
        ("descent", {"steps": 0}, "steps must be at least 1, got 0"),
        ("descent", {"batch_blocks": 0}, "batch_blocks must be at least 1"),
        ("descent", {"learning_rate": float("nan")}, "learning_rate: must be a finite number"),
        ("descent", {"steps": "many"}, "parameter steps: .*got 'many'"),
        ("outputs", {"ridge": 0.0}, "ridge must be above 0, got 0.0"),
        ("none", {"ridge": 1.0}, "unknown parameter of refinement none 'ridge'"),
    ],
)
def test_mistakes_are_named(name: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_refinement(name, parameters)


def test_what_a_merge_goes_with_exists() -> None:
    assert {kind.default_refinement for kind in MERGES.values()} == {"none", "descent"}
    assert MERGES["optimal"].default_refinement == "descent"

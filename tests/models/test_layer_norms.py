"""LayerNorms of single heads: what a merge keeps exactly, and what reads, writes and refuses such layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gqasearch.checkpoints.copy_heads import write_with_copies
from gqasearch.doctor import Patient, examine
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import MERGES, make_merge
from gqasearch.merging.merged_group import MergedGroup, with_groups
from gqasearch.merging.one_norm import under_one_norm
from gqasearch.models import LayerWeights, Parent, layers_replaced, resolve_model, tie_heads
from gqasearch.models.head_norm import HeadNorm
from tests.checkpoints.convert import SYMMETRIC, convert, stored_tensors
from tests.checkpoints.uneven import assert_unchanged, saved
from tests.merging.layers import logits_with, tied
from tests.models.test_more_families import statistics_of
from tests.refining.cases import THIRDS, blocks_of, refinement, site_error, site_of
from tests.samples import synthetic_statistics
from tests.tiny_models import LAYER_NORMED_HEADS, tiny_parent

OWN = ("stablelm_normed", "cohere_normed")


def test_the_norm_is_torch_s() -> None:
    torch.manual_seed(0)
    norm, heads = nn.LayerNorm(8, eps=0.0), torch.randn(4, 6, 8)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        torch.testing.assert_close(HeadNorm(norm.weight, norm.bias, centred=True).of(heads), norm(heads))


@pytest.mark.parametrize("family", LAYER_NORMED_HEADS)
def test_merge_without_effect_gives_the_parent_itself(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    assert_unchanged(parent, folder, tmp_path / "out")


def proportional(layer: LayerWeights) -> LayerWeights:
    """Every key head the first one, but for weights of its norm that differ by what passes RoPE, signs included."""
    assert layer.k_norms is not None
    r, generator = layer.rotary_dim, torch.Generator().manual_seed(0)
    factors = torch.randn(layer.k_norms.shape, generator=generator)
    factors[:, r // 2 : r] = factors[:, : r // 2]
    same = [0] * layer.num_kv_heads
    bias = None if layer.k_bias is None else layer.k_bias[same]
    return replace(layer, k=layer.k[same], k_bias=bias, v=layer.v[same], k_norms=layer.k_norms[same] * factors)


@pytest.mark.parametrize("name", sorted(MERGES))
@pytest.mark.parametrize("family", OWN)
def test_norms_that_differ_by_what_passes_rope_merge_exactly(family: str, name: str, tmp_path: Path) -> None:
    parent = tiny_parent(family)
    layer = proportional(parent.layer(0))
    before = logits_with(parent, layer)
    with layers_replaced(parent, {0: layer}):
        statistics = statistics_of(parent, tmp_path)[0]
    merged = make_merge(name).for_layer(layer, statistics).merge(LayerGrouping.from_labels((0,) * 6))
    assert merged.k_norms is not None and merged.k_norms.shape == (1, 8)
    assert torch.allclose(logits_with(parent, tied(merged, (0,) * 6)), before, atol=2e-4)
    assert merged.q_norms is not None and layer.q_norms is not None
    unmoved = replace(merged, q_norms=layer.q_norms)
    assert not torch.allclose(logits_with(parent, tied(unmoved, (0,) * 6)), before, atol=0.01)


def test_weights_that_are_zero_stay_so() -> None:
    layer = tiny_parent("cohere_normed").layer(0)
    assert layer.k_norms is not None
    weights = layer.k_norms.clone()
    weights[:, [1, 5]] = 0  # a pair
    weights[0, [2, 6]] = 0
    own = under_one_norm(replace(layer, k_norms=weights), torch.full((6,), 1 / 6))
    assert own.k_norms is not None and own.q_norms is not None
    assert bool(own.k_norms.isfinite().all()) and bool(own.q_norms.isfinite().all())
    assert not own.k_norms[:, [1, 5]].any() and not own.q_norms[0, [2, 6]].any()


def seen(heads: Tensor) -> Tensor:
    return heads - heads.mean(1, keepdim=True)


@pytest.mark.parametrize("name", sorted(MERGES))
@pytest.mark.parametrize("family", LAYER_NORMED_HEADS)
def test_what_a_layernorm_takes_away_changes_no_merge(family: str, name: str) -> None:
    """The same row added to all dimensions of a head: the keys are the same, so the errors and merged keys are."""
    layer = tiny_parent(family).layer(0)
    other = replace(layer, k=layer.k + 3 * torch.randn(6, 1, 48, generator=torch.Generator().manual_seed(1)))
    statistics = synthetic_statistics(layer)
    found = [make_merge(name).for_layer(one, statistics) for one in (layer, other)]
    errors = [merge.group_errors([(0, 1), (2, 3, 5)]) for merge in found]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)
    keys = [seen(merge.merge(LayerGrouping.neighbours(6, 3)).k) for merge in found]
    torch.testing.assert_close(*keys, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [*LAYER_NORMED_HEADS, "persimmon"])
def test_refinements_attend_as_the_grouped_model_and_leave_less(family: str) -> None:
    parent, text = tiny_parent(family), blocks_of(tiny_parent(family))
    site, layer = site_of(parent, THIRDS, text), THIRDS.layers[0]
    merged = make_merge("mean").for_layer(parent.layer(0)).merge(layer)
    alone = site_of(parent, Grouping.uniform(LayerGrouping.singletons(6), 2), text)
    with torch.no_grad():
        found, wanted = site.attend(merged, site.calls[0]), alone.attend(tie_heads(merged, layer, 1), alone.calls[0])
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    refined = refinement("descent").refine_layer(site, merged, lambda: None)  # type: ignore[attr-defined]
    assert site_error(site, refined) < 0.8 * site_error(site, merged)
    if merged.k_norms is not None and refined.k_norms is not None:
        assert not torch.equal(refined.k_norms, merged.k_norms)


def test_a_merge_of_a_plug_in_that_knows_no_such_norms_is_refused_in_one_line() -> None:
    layer = tiny_parent("cohere_normed").layer(0)
    group = MergedGroup(k=layer.k[0], v=layer.v[0], q=layer.q[:2], o=layer.o[:2])
    with pytest.raises(UserError, match="this merge gives no k_norms and q_norms"):
        with_groups(layer, LayerGrouping.neighbours(6, 3), lambda _heads: group)


def test_heads_that_are_there_twice_have_their_norms_twice(tmp_path: Path) -> None:
    """For second reads: the copy is checked against its source as it is written."""
    _, folder = saved(tmp_path, "cohere_normed")
    wider = write_with_copies(resolve_model(str(folder)), [[1], [4]], tmp_path / "wider")
    stored = stored_tensors(wider.directory)["model.layers.1.self_attn.k_norm.weight"]
    assert stored.shape == (7, 8) and torch.equal(stored[6], stored[4])


@pytest.mark.parametrize("family", OWN)
def test_doctor_says_that_engines_were_not_tried_with_them(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    convert(parent, folder, tmp_path / "out", SYMMETRIC)
    found = {finding.check: finding for finding in examine(Patient(tmp_path / "out", "llama.cpp"))}
    assert found["layout"].severity == "warning"
    assert " with " in found["layout"].words


def test_a_persimmon_as_published() -> None:
    """Its config.json names KV heads, and where RoPE is in the words of transformers 4; the norms are on by default."""
    config = {
        "architectures": ["PersimmonForCausalLM"],
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "num_key_value_heads": 64,
        "num_hidden_layers": 36,
        "rope_theta": 25000.0,
        "rope_scaling": None,
    }
    parent = Parent("x", tiny_parent("persimmon").model, config, tiny_parent("persimmon").family)
    assert (parent.geometry.head_dim, parent.geometry.rotary_dim, parent.geometry.num_kv_heads) == (64, 32, 64)


def test_a_persimmon_without_norms() -> None:
    layer = tiny_parent("persimmon", qk_layernorm=False).layer(1)
    assert layer.norm_of_keys is None and layer.norm_of_queries is None

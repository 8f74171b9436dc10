"""The ragged layout of every family whose stock attention it calls, and what it hands to that attention."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gqasearch.checkpoints import plan_checkpoint
from gqasearch.checkpoints.ragged import RAGGED_MODULES
from gqasearch.checkpoints.remote import modeling_ragged
from gqasearch.checkpoints.remote.modeling_ragged import (
    LayerGroups,
    RaggedLlamaConfig,
    RaggedLlamaForCausalLM,
    RaggedQwen2Config,
    RaggedQwen2ForCausalLM,
)
from gqasearch.errors import UserError
from gqasearch.models import FAMILIES
from tests.checkpoints.convert import PADDED, config_of, convert, some_ids
from tests.checkpoints.test_stock_families import LONGROPE
from tests.checkpoints.uneven import SOURCES, UNEVEN, assert_same, load_trusted, saved, write
from tests.matrix import sampled
from tests.tiny_models import GROUPED_NAMES, MORE_GROUPED_NAMES, tiny_model

# Gemma 2's scores are capped, which sdpa cannot do.
KERNELS = [(name, "eager") for name in MORE_GROUPED_NAMES]
KERNELS += [(name, "sdpa") for name in MORE_GROUPED_NAMES if name != "gemma2"]


def converted(tmp_path: Path, family: str, **options: Any) -> tuple[Any, Path]:
    """The parent and the folder of a checkpoint with ``UNEVEN`` groups."""
    parent, folder = saved(tmp_path, family, **options)
    assert write(parent, folder, tmp_path / "out", UNEVEN, "auto").kv_heads_per_layer == (2, 4)
    return parent, tmp_path / "out"


def test_every_family_with_grouped_heads_and_rope_has_the_layout() -> None:
    tiny = {type(tiny_model(name)).__name__ for name in GROUPED_NAMES}
    assert tiny <= RAGGED_MODULES.keys() <= {name for family in FAMILIES for name in family.architectures}


@pytest.mark.parametrize(("family", "implementation"), sampled(KERNELS, KERNELS[::3]))
def test_written_checkpoint_equals_parent_with_tied_heads(family: str, implementation: str, tmp_path: Path) -> None:
    """A GQA source with eager attention, an MHA source with sdpa; whole, left-padded and with a cache."""
    parent, out = converted(tmp_path, family, **SOURCES["gqa" if implementation == "eager" else "mha"])
    written = load_trusted(out, attn_implementation=implementation)
    assert type(written).__name__ == config_of(out)["architectures"][0]  # type: ignore[index]
    assert written.config._attn_implementation == implementation
    assert_same(parent, written, UNEVEN)


@pytest.mark.parametrize("family", sampled(MORE_GROUPED_NAMES, MORE_GROUPED_NAMES[::4]))
def test_maps_gradients_and_saving_again(family: str, tmp_path: Path) -> None:
    parent, out = converted(tmp_path, family)
    model = load_trusted(out, attn_implementation="eager")
    maps = model(some_ids(), output_attentions=True).attentions
    assert [tuple(layer.shape) for layer in maps] == [(2, 6, 24, 24)] * 2
    assert all(torch.allclose(layer.sum(-1), torch.ones(2, 6, 24)) for layer in maps)
    model.train()(some_ids(), labels=some_ids()).loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if "embed" not in n)
    model.save_pretrained(tmp_path / "again")
    assert_same(parent, load_trusted(tmp_path / "again"), UNEVEN)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gemma", {"attention_bias": True}),
        ("starcoder2", {"use_bias": False, "sliding_window": 7}),
        ("olmo", {"attention_bias": True}),
        ("stablelm", {"use_qkv_bias": False, "use_parallel_residual": True}),
        ("phi3", {"rope_parameters": LONGROPE, "sliding_window": 7}),
        ("gemma3_text", {"hidden": 60}),
        ("cohere", {"attention_bias": True, "tied": True}),
        ("cohere_normed", {"attention_bias": True, "tied": True}),
        ("stablelm_normed", {"use_qkv_bias": True, "use_parallel_residual": True}),
    ],
)
def test_variants(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    parent, out = converted(tmp_path, family, **options)
    assert_same(parent, load_trusted(out), UNEVEN)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("stablelm", {}),
        ("stablelm_normed", {}),
        ("phi_normed", {}),
        ("gemma2", {"hidden": 66}),
        ("phi3", {"rope_parameters": LONGROPE}),
    ],
)
def test_auto_is_ragged_where_the_architecture_cannot_be_padded(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    parent, folder = saved(tmp_path, family, **options)
    layout = convert(parent, folder, tmp_path / "out", PADDED)
    assert (layout.name, layout.query_heads, layout.kv_heads_per_layer) == ("ragged", 6, (3, 3))
    assert "groups of its own sizes, and this architecture cannot be padded for them" in layout.reason
    assert_same(parent, load_trusted(tmp_path / "out"), PADDED)
    planned = plan_checkpoint(parent.family, parent.config, PADDED, target="transformers")
    assert planned.reason == f"{layout.reason} For transformers."
    # llama.cpp takes no Phi with grouped heads at all.
    with pytest.raises(UserError, match="loads no converted Phi" if family == "phi_normed" else "be query-padded"):
        plan_checkpoint(parent.family, parent.config, PADDED, target="llama.cpp")


# How attention is called


def ragged_model(*sizes: list[int], **settings: Any) -> PreTrainedModel:
    """A random model with biases, of 6 query heads of 8."""
    config = RaggedQwen2Config(
        vocab_size=50,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=len(sizes),
        num_attention_heads=6,
        num_key_value_heads=6,
        kv_group_sizes=list(sizes),
        num_key_value_heads_per_layer=[len(layer) for layer in sizes],
        **settings,
    )
    model: PreTrainedModel = RaggedQwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def test_groups_in_any_order_are_the_same_model() -> None:
    """As earlier versions wrote them, in the order of the grouping."""
    torch.manual_seed(0)
    model = ragged_model([1, 3, 1, 1])
    attention, other = model.model.layers[0].self_attn, ragged_model([3, 1, 1, 1])
    heads, groups = torch.tensor([1, 2, 3, 0, 4, 5]), torch.tensor([1, 0, 2, 3])
    state = model.state_dict()
    for name, order in (("q_proj", heads), ("k_proj", groups), ("v_proj", groups)):
        for kind in ("weight", "bias"):
            stored = getattr(getattr(attention, name), kind)
            state[f"model.layers.0.self_attn.{name}.{kind}"] = stored.unflatten(0, (-1, 8))[order].flatten(0, 1)
    state["model.layers.0.self_attn.o_proj.weight"] = attention.o_proj.weight.unflatten(1, (-1, 8))[:, heads].flatten(
        1, 2
    )
    other.load_state_dict(state)
    ids = torch.arange(20).view(2, 10)
    options: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    with torch.no_grad():
        assert float((model(ids).logits - other(ids).logits).abs().max()) < 5e-5
    assert torch.equal(model.generate(ids, **options), other.generate(ids, **options))


def test_many_tokens_take_one_call_per_size_and_one_token_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int, int]] = []
    real = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def noted(module: Any, query: Any, key: Any, *args: Any, **options: Any) -> Any:
        calls.append((query.shape[1], key.shape[1], module.num_key_value_groups))
        return real(module, query, key, *args, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", noted)
    model = ragged_model([2, 2, 1, 1], [4, 2], attn_implementation="sdpa")
    with torch.no_grad():
        cache = model(torch.arange(5).view(1, 5)).past_key_values
        assert calls == [(4, 2, 2), (2, 2, 1), (4, 1, 4), (2, 1, 2)]
        calls.clear()
        model(torch.ones(1, 1, dtype=torch.long), past_key_values=cache)
    assert calls == [(4, 4, 1), (2, 2, 1)]  # heads of KV, each with the queries of a group as tokens


def test_a_function_that_needs_the_order_of_tokens_is_given_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as flash attention, which packs the queries of a group itself."""
    torch.manual_seed(0)
    model = ragged_model([3, 2, 1], attn_implementation="sdpa")
    ids = torch.arange(12).view(2, 6)
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    expected = model.generate(ids, **options)
    monkeypatch.setattr(modeling_ragged, "PACKABLE", ())
    assert torch.equal(model.generate(ids, **options), expected)


def test_the_attention_function_can_be_changed_and_the_model_copied() -> None:
    torch.manual_seed(0)
    model = ragged_model([3, 2, 1], [1, 1, 1, 1, 1, 1], attn_implementation="sdpa")
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = model(ids).logits
        assert model(ids, output_attentions=False).attentions is None
        copied = copy.deepcopy(model)
        copied.set_attn_implementation("eager")
        assert model.config._attn_implementation == "sdpa"
        assert float((copied(ids).logits - expected).abs().max()) < 5e-5
        assert copied(ids, output_attentions=True).attentions[0].shape == (2, 6, 6, 6)


def test_the_cache_of_continuous_batching_is_refused() -> None:
    """Its attention functions would write the heads of a run over those of all."""
    with pytest.raises(ValueError, match=r"paged cache of continuous batching; use generate\(\)"):
        ragged_model([3, 2, 1])(torch.arange(6).view(1, 6), cache=object())


def test_it_compiles_as_one_graph() -> None:
    model = ragged_model([3, 2, 1], attn_implementation="sdpa")
    ids = torch.arange(6).view(1, 6)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        for tokens in (ids, ids[:, :1]):
            assert torch.equal(compiled(tokens, use_cache=False).logits, model(tokens, use_cache=False).logits)


def test_slots_and_runs_of_a_layer() -> None:
    groups = LayerGroups([3, 1, 1])
    assert groups.runs == [(3, slice(0, 3), slice(0, 1)), (1, slice(3, 5), slice(1, 3))]
    query_of_slot, slot_of_query = groups.slots(torch.device("cpu"))
    assert query_of_slot.tolist() == [0, 1, 2, 3, 3, 3, 4, 4, 4]
    assert slot_of_query.tolist() == [0, 1, 2, 3, 6]


def test_a_model_in_memory_is_initialised_as_stock() -> None:
    config = RaggedLlamaConfig(
        num_hidden_layers=1,
        num_attention_heads=6,
        num_key_value_heads=6,
        hidden_size=48,
        vocab_size=20,
        kv_group_sizes=[[4, 2]],
        num_key_value_heads_per_layer=[2],
    )
    attention = RaggedLlamaForCausalLM(config).model.layers[0].self_attn
    assert attention.k_proj.weight.shape == (16, 48)
    assert float(attention.k_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.2)

"""Every family: the weights by head compute what the model's own attention computes, and go back unchanged."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models import LayerWeights, Parent, family_of, layers_replaced, load_parent
from gqasearch.models.head_norm import HeadNorm
from tests.samples import logits_of, random_blocks
from tests.tiny_described import COPIED_NAMES, DESCRIBED_NAMES
from tests.tiny_encoders import ENCODERS
from tests.tiny_models import (
    ALL_FAMILY_NAMES,
    FAMILY_NAMES,
    GROUPED_NAMES,
    LAYER_NORMED_HEADS,
    MORE_FAMILY_NAMES,
    VOCAB_SIZE,
    edit_config,
    kv_head_choices,
    save_checkpoint,
    tiny_model,
    tiny_parent,
)
from tests.tiny_towers import TOWER_NAMES

EVERY_FAMILY = (*ALL_FAMILY_NAMES, *MORE_FAMILY_NAMES, *DESCRIBED_NAMES, *TOWER_NAMES, "gptj", *COPIED_NAMES)
SOURCES = [(family, kv) for family in EVERY_FAMILY for kv in kv_head_choices(family)]
UNGROUPED = ("opt", "gpt2", *COPIED_NAMES)


def rotate(heads: Tensor, rotary_dim: int, theta: float = 10000.0, stretch: float = 1.0) -> Tensor:
    """RoPE on the first ``rotary_dim`` dimensions of (B, T, H, d), by explicit 2 x 2 rotations."""
    out, half = heads.clone(), rotary_dim // 2
    for pair in range(half):
        angle = torch.arange(heads.shape[1]) / stretch * theta ** (-2 * pair / rotary_dim)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        a, b = heads[..., pair], heads[..., pair + half]
        out[..., pair], out[..., pair + half] = a * cos - b * sin, a * sin + b * cos
    return out


# What layers of the tiny models do besides: RoPE other than with base 10000, sliding windows, soft caps of scores.
ODDITIES: dict[tuple[str, int], dict[str, Any]] = {
    ("gemma2", 0): {"window": 8, "softcap": 3.0},
    ("gemma2", 1): {"softcap": 3.0},
    ("gemma3_text", 0): {"window": 8, "theta": 100.0},
    ("gemma3_text", 1): {"stretch": 2.0},
    ("gemma3", 0): {"window": 8},
    ("gemma3", 1): {"theta": 1e6},
    ("cohere2", 0): {"window": 8},
    ("cohere2", 1): {"stretch": float("inf")},
    ("gpt_neo", 1): {"window": 8},
    ("gpt_oss", 0): {"window": 8},
    ("olmo3", 0): {"window": 8},
    ("exaone4", 0): {"window": 8},
    ("exaone4", 1): {"stretch": float("inf")},  # no RoPE
    ("ministral", 0): {"window": 8},
    ("ministral3", 0): {"window": 8, "longer": True},
    ("ministral3", 1): {"window": 8, "longer": True},
}


def attend(
    x: Tensor,
    w: LayerWeights,
    *,
    theta: float = 10000.0,
    stretch: float = 1.0,
    window: int | None = None,
    softcap: float | None = None,
    longer: bool = False,
) -> Tensor:
    """Causal attention from weights by head, one head at a time, without the bias of o: (B, T, D).

    ``longer``: queries from token 10 on are longer, as Ministral 3 has it.
    """
    length, m = x.shape[1], w.queries_per_kv
    scale = w.head_dim**-0.5 if w.score_scale is None else w.score_scale

    def heads(weight: Tensor, bias: Tensor | None, norm: HeadNorm | None = None, whole: Tensor | None = None) -> Tensor:
        out = torch.einsum("btx,hdx->bthd", x, weight) + (0 if bias is None else bias)
        if whole is not None:  # rows of all heads, whose root mean square every head is over
            size = torch.einsum("btx,hdx->bthd", x, whole).square().mean((2, 3), keepdim=True)
            return out * (size + 1e-6).rsqrt()
        if norm is None:
            return out
        out = out - out.mean(-1, keepdim=True) if norm.centred else out
        eps = 1e-5 if norm.centred else 1e-6
        out = out * (out.square().mean(-1, keepdim=True) + eps).rsqrt() * norm.weight
        return out if norm.shift is None else out + norm.shift

    q = rotate(heads(w.q, w.q_bias, w.norm_of_queries, w.q_rows), w.rotary_dim, theta, stretch)
    k = rotate(heads(w.k, w.k_bias, w.norm_of_keys, w.k_rows), w.rotary_dim, theta, stretch)
    if longer:
        q = q * (1 + 0.3 * (1 + torch.arange(length) // 10).log())[:, None, None]
    v, total = heads(w.v, w.v_bias), torch.zeros_like(x)
    back = torch.arange(length)[:, None] - torch.arange(length)
    hidden = (back < 0) | (back >= (window or length))
    for query in range(len(w.q)):
        scores = q[:, :, query] @ k[:, :, query // m].mT * scale
        sink = torch.full_like(scores[..., :1], -torch.inf if w.sinks is None else float(w.sinks[query]))
        scores = scores if softcap is None else softcap * (scores / softcap).tanh()
        shares = torch.cat([scores.masked_fill(hidden, -torch.inf), sink], -1).softmax(-1)[..., :-1]
        total += shares @ v[:, :, query // m] @ w.o[query].T
    return total


def attention_call(parent: Parent, layer: int) -> tuple[Tensor, Tensor]:
    """What one attention block of the model was given and gave, (B, T, D)."""
    seen: list[Tensor] = []

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.extend((kwargs["hidden_states"] if "hidden_states" in kwargs else args[0], output[0]))

    attention = parent.model.get_submodule(parent.family.attention_path(layer))
    handle = attention.register_forward_hook(note, with_kwargs=True)
    logits_of(parent, random_blocks(VOCAB_SIZE, blocks=2, length=12))
    handle.remove()
    return seen[0], seen[1]


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_heads_compute_the_models_attention(family: str, kv_heads: int) -> None:
    parent = tiny_parent(family, kv_heads=kv_heads)
    for layer in range(2):
        x, wanted = attention_call(parent, layer)
        name = parent.family.tensor_name(layer, "o.bias")
        bias = dict(parent.model.named_parameters()).get(name, torch.zeros(()))
        found = attend(x, parent.layer(layer), **ODDITIES.get((family, layer), {})) + bias
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_layers_are_written_as_they_were_read(family: str, kv_heads: int) -> None:
    parent = tiny_parent(family, kv_heads=kv_heads)
    written = parent.family.write_layer(parent.layer(1), 1)
    assert sorted(written) == sorted(parent.family.layer_tensors(1, parent.config).values())
    for name, tensor in written.items():
        assert torch.equal(tensor, parent.model.get_parameter(name)), name


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_replaced_layers_are_the_ones_that_run(family: str) -> None:
    parent = tiny_parent(family)
    state = {name: tensor.clone() for name, tensor in parent.model.state_dict().items()}
    _, before = attention_call(parent, 0)
    layer = parent.layer(0)
    louder = replace(layer, v=layer.v * 2, v_bias=None if layer.v_bias is None else layer.v_bias * 2)
    with layers_replaced(parent, {0: louder}):
        _, after = attention_call(parent, 0)
        for field in fields(LayerWeights):
            read, given = getattr(parent.layer(0), field.name), getattr(louder, field.name)
            assert torch.equal(read, given) if isinstance(given, Tensor) else read == given
    bias = state.get(parent.family.tensor_name(0, "o.bias"), torch.zeros(()))
    torch.testing.assert_close(after - bias, 2 * (before - bias), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(state[name], tensor) for name, tensor in parent.model.state_dict().items())


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_folder_reads_like_the_model_in_memory(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    parent = load_parent(str(save_checkpoint(model, tmp_path / "source")))
    again = Parent.from_model(model)
    assert parent.geometry == again.geometry
    for field in fields(LayerWeights):
        mine, other = getattr(parent.layer(1), field.name), getattr(again.layer(1), field.name)
        assert torch.equal(mine, other) if isinstance(mine, Tensor) else mine == other


@pytest.mark.parametrize(
    ("change", "rotary_dim"),
    [
        ({"rotary_pct": 0.25}, 4),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}, "rotary_pct": 0.25}, 8),
        ({"rope_parameters": None}, 4),
        ({"rotary_pct": 1.0}, 16),
    ],
)
def test_rotated_dimensions_of_gpt_neox(change: dict[str, Any], rotary_dim: int) -> None:
    """As written by older versions of transformers (``rotary_pct``) and by newer ones; 0.25 where neither stands."""
    config = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1} | change
    family = family_of({"architectures": ["GPTNeoXForCausalLM"]})
    assert family.geometry(config).rotary_dim == rotary_dim


def test_models_without_biases_have_none() -> None:
    for family, field in (("gpt_neox", "attention_bias"), ("opt", "enable_bias"), ("falcon", "bias")):
        assert tiny_parent(family, **{field: True}).layer(0).has_biases
        parent = tiny_parent(family, **{field: False})
        assert not parent.layer(0).has_biases
        x, wanted = attention_call(parent, 0)
        torch.testing.assert_close(attend(x, parent.layer(0)), wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_older_falcon_layers(bias: bool) -> None:
    """q, k and v of each head together, one norm; with a bias in W_o that merges do not touch."""
    parent = tiny_parent("falcon", new_decoder_architecture=False, multi_query=False, bias=bias)
    x, wanted = attention_call(parent, 1)
    o_bias = parent.model.get_parameter(parent.family.tensor_name(1, "o.bias")) if bias else torch.zeros(())
    torch.testing.assert_close(attend(x, parent.layer(1)) + o_bias, wanted, atol=2e-5, rtol=1e-4)
    for name, tensor in parent.family.write_layer(parent.layer(1), 1).items():
        assert torch.equal(tensor, parent.model.get_parameter(name)), name


def test_fused_heads_must_be_tied_before_they_are_written() -> None:
    parent = tiny_parent("gpt_neox")
    layer = parent.layer(0)
    with pytest.raises(ValueError, match="one key and one value with every query head"):
        parent.family.write_layer(replace(layer, k=layer.k[:3], v=layer.v[:3]), 0)


def test_unknown_architectures_are_refused_with_the_list(tmp_path: Path) -> None:
    source = save_checkpoint(tiny_model("llama"), tmp_path / "source")
    edit_config(source, architectures=["MambaForCausalLM"])
    with pytest.raises(UserError, match=r"MambaForCausalLM is not supported\. Supported: .*GPTNeoXForCausalLM, Gemma2"):
        load_parent(str(source))


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("BloomForCausalLM", "the bias on a head's scores belongs to the head's place"),
        ("MptForCausalLM", "ALiBi"),
        ("Gemma4ForCausalLM", "layers differ in the size of a head"),
        *(
            (f"{name}ForConditionalGeneration", "encoder-decoder, whose layers have two")
            for name in ("Whisper", "Bart", "T5")
        ),
    ],
)
def test_architectures_that_cannot_be_grouped_are_refused_with_the_reason(architecture: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"{architecture} is not supported: .*{reason}.*\. Supported: Apertus"):
        family_of({"architectures": [architecture]})


@pytest.mark.parametrize(
    ("architecture", "field", "message"),
    [
        ("GPTBigCodeForCausalLM", {"multi_query": True}, r"has one KV head already \(multi_query\)"),
        ("GPTBigCodeForCausalLM", {"add_cross_attention": True}, "has cross-attention"),
        ("XGLMForCausalLM", {"add_cross_attention": True}, "has cross-attention"),
        ("OlmoForCausalLM", {"clip_qkv": 8.0}, "clip_qkv=8.0"),
        ("SmolLM3ForCausalLM", {"no_rope_layers": [1]}, "names 1 layers, the model has 2"),
        ("OlmoeForCausalLM", {"clip_qkv": 8.0}, r"\(clip_qkv=8\.0\); only models that do not"),
        ("Cohere2ForCausalLM", {"layer_types": ["full_attention"]}, "layer_types names 1 layers, the model has 2"),
        ("Exaone4ForCausalLM", {"sliding_window_pattern": "LLLG"}, "must be a number, got 'LLLG', or layer_types"),
    ],
)
def test_variants_that_cannot_be_grouped_are_refused(architecture: str, field: dict[str, Any], message: str) -> None:
    config = {"architectures": [architecture], "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    config |= {"num_key_value_heads": 4, "multi_query": False}
    family = family_of(config)
    assert family.geometry(config).head_dim == 16
    with pytest.raises(UserError, match=message):
        (family.layer_rotary_dim(0, config | field), family.turns(0, config | field))


def test_layers_with_rope_by_their_windows() -> None:
    """Of a config.json that lists no kinds of layers: Command R7B's says how often one sees all tokens."""
    shape = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 4}
    variants: tuple[dict[str, Any], ...] = ({}, {"sliding_window_pattern": 2}, {"sliding_window": None})
    found = {}
    for name in ("Cohere2", "Exaone4"):
        config = {"architectures": [f"{name}ForCausalLM"], **shape}
        family = family_of(config)
        for field in variants:
            found[name, str(field)] = [family.turns(layer, config | field) for layer in range(4)]
    fourth, other = [True, True, True, False], [True, False, True, False]
    assert list(found.values()) == [fourth, other, [False] * 4, fourth, other, [True] * 4]


@pytest.mark.parametrize(
    ("architecture", "heads", "head_dim", "rotary_dim"),
    [
        ("HeliumForCausalLM", 20, 128, 128),
        ("SeedOssForCausalLM", 8, 128, 128),
        ("GlmForCausalLM", 2, 128, 64),
        ("GptOssForCausalLM", 8, 64, 64),
        ("NemotronForCausalLM", 40, 64, 32),
        ("MixtralForCausalLM", 8, 64, 64),
    ],
)
def test_heads_that_config_json_leaves_to_transformers(
    architecture: str, heads: int, head_dim: int, rotary_dim: int
) -> None:
    config = {"architectures": [architecture], "hidden_size": 2560, "num_attention_heads": 40, "num_hidden_layers": 1}
    shape = family_of(config).geometry(config)
    assert (shape.num_kv_heads, shape.head_dim, shape.rotary_dim) == (heads, head_dim, rotary_dim)


def test_rotated_dimensions_by_layer() -> None:
    config = {"architectures": ["SmolLM3ForCausalLM"], "hidden_size": 64, "num_attention_heads": 4}
    config |= {"num_hidden_layers": 4}
    family = family_of(config)
    rotated = {"default": {}, "every other": {"no_rope_layer_interval": 2}, "named": {"no_rope_layers": [0, 1, 0, 0]}}
    found = {name: [family.layer_rotary_dim(i, config | field) for i in range(4)] for name, field in rotated.items()}
    assert found == {"default": [16, 16, 16, 0], "every other": [16, 0, 16, 0], "named": [0, 16, 0, 0]}


def test_scale_of_gpt2_scores() -> None:
    config = {"architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_head": 4, "n_layer": 2}
    family = family_of(config)
    assert family.score_scale(1, config) is None
    assert family.score_scale(1, config | {"scale_attn_weights": False}) == 1.0
    assert family.score_scale(1, config | {"scale_attn_by_inverse_layer_idx": True}) == 1 / 8


def test_every_family_is_tested() -> None:
    from gqasearch.models import FAMILIES

    towers = {tiny_parent(name).family.name for name in TOWER_NAMES}
    assert {family.name for family in FAMILIES if family.has_images} == towers
    found = {family.name for family in FAMILIES} - towers
    assert found == (set(EVERY_FAMILY) - {*TOWER_NAMES, *LAYER_NORMED_HEADS}) | set(ENCODERS) | {"codegen"}
    as_phi, described = {"gpt_neox", "falcon", "gptj", "codegen"}, set(DESCRIBED_NAMES)
    assert set(GROUPED_NAMES) | as_phi | set(UNGROUPED) | described | set(TOWER_NAMES) == set(EVERY_FAMILY) | {
        "codegen"
    }
    assert set(FAMILY_NAMES) <= set(ALL_FAMILY_NAMES)

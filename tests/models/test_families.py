"""Every family: the weights by head compute what the model's own attention computes, and go back unchanged."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gqasearch.checkpoints import write_checkpoint
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, Parent, family_of, layers_replaced, load_parent
from tests.checkpoints.convert import document_for
from tests.samples import logits_of, random_blocks
from tests.tiny_models import (
    ALL_FAMILY_NAMES,
    FAMILY_NAMES,
    edit_config,
    kv_head_choices,
    save_checkpoint,
    tiny_model,
    tiny_parent,
)

SOURCES = [(family, kv) for family in ALL_FAMILY_NAMES for kv in kv_head_choices(family)]
UNGROUPED = ("gpt_neox", "opt")


def rotate(heads: Tensor, rotary_dim: int, theta: float = 10000.0) -> Tensor:
    """RoPE on the first ``rotary_dim`` dimensions of (B, T, H, d), by explicit 2 x 2 rotations."""
    out, half = heads.clone(), rotary_dim // 2
    for pair in range(half):
        angle = torch.arange(heads.shape[1]) * theta ** (-2 * pair / rotary_dim)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        a, b = heads[..., pair], heads[..., pair + half]
        out[..., pair], out[..., pair + half] = a * cos - b * sin, a * sin + b * cos
    return out


def attend(x: Tensor, w: LayerWeights) -> Tensor:
    """Causal attention from weights by head, one head at a time, without the bias of o: (B, T, D)."""
    length, m = x.shape[1], w.queries_per_kv

    def heads(weight: Tensor, bias: Tensor | None, norm: Tensor | None) -> Tensor:
        out = torch.einsum("btx,hdx->bthd", x, weight) + (0 if bias is None else bias)
        if norm is None:
            return out
        return out * (out.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm

    q = rotate(heads(w.q, w.q_bias, w.q_norm), w.rotary_dim)
    k = rotate(heads(w.k, w.k_bias, w.k_norm), w.rotary_dim)
    v, total = heads(w.v, w.v_bias, None), torch.zeros_like(x)
    hidden = torch.ones(length, length).triu(1).bool()
    for query in range(len(w.q)):
        scores = q[:, :, query] @ k[:, :, query // m].mT / w.head_dim**0.5
        total += scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, :, query // m] @ w.o[query].T
    return total


def attention_call(parent: Parent, layer: int) -> tuple[Tensor, Tensor]:
    """What one attention block of the model was given and gave, (B, T, D)."""
    seen: list[Tensor] = []

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.extend((kwargs["hidden_states"] if "hidden_states" in kwargs else args[0], output[0]))

    attention = parent.model.get_submodule(parent.family.attention_path(layer))
    handle = attention.register_forward_hook(note, with_kwargs=True)
    logits_of(parent, random_blocks(parent.config["vocab_size"], blocks=2, length=12))
    handle.remove()
    return seen[0], seen[1]


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_heads_compute_the_models_attention(family: str, kv_heads: int) -> None:
    parent = tiny_parent(family, kv_heads=kv_heads)
    for layer in range(2):
        x, wanted = attention_call(parent, layer)
        name = parent.family.tensor_name(layer, "o.bias")
        bias = dict(parent.model.named_parameters()).get(name, torch.zeros(()))
        torch.testing.assert_close(attend(x, parent.layer(layer)) + bias, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_layers_are_written_as_they_were_read(family: str, kv_heads: int) -> None:
    parent = tiny_parent(family, kv_heads=kv_heads)
    written = parent.family.write_layer(parent.layer(1), 1)
    assert sorted(written) == sorted(parent.family.layer_tensors(1, parent.config).values())
    for name, tensor in written.items():
        assert torch.equal(tensor, parent.model.get_parameter(name)), name


@pytest.mark.parametrize("family", ALL_FAMILY_NAMES)
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


@pytest.mark.parametrize("family", ALL_FAMILY_NAMES)
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
    for family, field in (("gpt_neox", "attention_bias"), ("opt", "enable_bias")):
        assert tiny_parent(family).layer(0).has_biases
        parent = tiny_parent(family, **{field: False})
        assert not parent.layer(0).has_biases
        x, wanted = attention_call(parent, 0)
        torch.testing.assert_close(attend(x, parent.layer(0)), wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", UNGROUPED)
def test_no_checkpoint_is_written_where_the_architecture_has_no_grouped_form(family: str, tmp_path: Path) -> None:
    source = save_checkpoint(tiny_model(family), tmp_path / "source")
    parent = load_parent(str(source))
    document = document_for(parent, Grouping.uniform(LayerGrouping.neighbours(6, 3), 2))
    with pytest.raises(UserError, match="no grouped form, so no checkpoint can be written"):
        write_checkpoint(source, tmp_path / "out", document, parent.layer)
    assert not (tmp_path / "out").exists()


def test_fused_heads_must_be_tied_before_they_are_written() -> None:
    parent = tiny_parent("gpt_neox")
    layer = parent.layer(0)
    with pytest.raises(UserError, match="one key and one value with every query head"):
        parent.family.write_layer(replace(layer, k=layer.k[:3], v=layer.v[:3]), 0)


def test_unknown_architectures_are_refused_with_the_list(tmp_path: Path) -> None:
    source = save_checkpoint(tiny_model("llama"), tmp_path / "source")
    edit_config(source, architectures=["BloomForCausalLM"])
    with pytest.raises(UserError, match=r"BloomForCausalLM is not supported\. Supported: GPTNeoXForCausalLM, Llama"):
        load_parent(str(source))


def test_every_family_is_tested() -> None:
    from gqasearch.models import FAMILIES

    assert {family.name for family in FAMILIES} == set(ALL_FAMILY_NAMES)
    assert set(FAMILY_NAMES) | set(UNGROUPED) == set(ALL_FAMILY_NAMES)

"""Falcon written as a stock Phi: the same logits, whatever its layers are built like, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gqasearch.checkpoints import plan_checkpoint
from gqasearch.errors import UserError
from gqasearch.models import family_of, load_parent
from tests.checkpoints.convert import (
    PADDED,
    SYMMETRIC,
    convert,
    load,
    stored_tensors,
)
from tests.checkpoints.phi import GROUPINGS, check_ragged, check_stock, check_without_groups
from tests.checkpoints.test_stock import assert_same, saved
from tests.tiny_models import edit_config

GQA: dict[str, Any] = {"heads": 12, "kv_heads": 6}
HEAD_BY_HEAD: dict[str, Any] = {"new_decoder_architecture": False, "multi_query": False}
ONE_NORM: dict[str, Any] = {"num_ln_in_parallel_attn": 1}
# Two LayerNorms and grouped heads as Falcon-40B and -180B, one as Falcon-11B, the older layers with all their heads.
BUILDS: dict[str, dict[str, Any]] = {
    "180b": GQA,
    "11b": {**GQA, **ONE_NORM, "tied": True},
    "mha": {"tied": True},
    "biased": {**GQA, "bias": True},
    "biased, one norm": {**ONE_NORM, "bias": True},
    "older": HEAD_BY_HEAD,
    "older, biased": {**HEAD_BY_HEAD, "bias": True},
}


@pytest.mark.parametrize("layout", GROUPINGS)
@pytest.mark.parametrize("build", BUILDS)
def test_it_is_the_parent_with_tied_heads(build: str, layout: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "falcon", **BUILDS[build])
    check_stock(parent, folder, tmp_path / "out", layout)


@pytest.mark.parametrize(("build", "implementation"), [("180b", "eager"), ("11b", "sdpa"), ("older", "sdpa")])
def test_layers_that_differ_make_a_ragged_phi(build: str, implementation: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "falcon", **BUILDS[build])
    check_ragged(parent, folder, tmp_path / "out", implementation)


@pytest.mark.parametrize("build", BUILDS)
def test_without_groups_it_computes_what_the_source_does(build: str, tmp_path: Path) -> None:
    """Of several shards, which a layer and its biases lie across."""
    parent, folder = saved(tmp_path, "falcon", "40KB", **BUILDS[build])
    check_without_groups(parent, folder, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == len(list(folder.glob("*.safetensors"))) > 1


def test_with_one_norm_only_attention_is_computed(tmp_path: Path) -> None:
    """All other tensors keep their bytes, in whatever dtype, and the norm stays where it is."""
    parent, folder = saved(tmp_path, "falcon", dtype=torch.bfloat16, **BUILDS["11b"])
    convert(parent, folder, tmp_path / "out", SYMMETRIC)
    source, written = stored_tensors(folder), stored_tensors(tmp_path / "out")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    for phi, own in (
        ("model.embed_tokens.weight", "transformer.word_embeddings.weight"),
        ("model.final_layernorm.bias", "transformer.ln_f.bias"),
        ("model.layers.1.input_layernorm.weight", "transformer.h.1.input_layernorm.weight"),
        ("model.layers.0.input_layernorm.bias", "transformer.h.0.input_layernorm.bias"),
        ("model.layers.1.mlp.fc1.weight", "transformer.h.1.mlp.dense_h_to_4h.weight"),
        ("model.layers.1.mlp.fc2.weight", "transformer.h.1.mlp.dense_4h_to_h.weight"),
    ):
        assert torch.equal(written[phi], source[own])
    biases = {name: tensor for name, tensor in written.items() if name.endswith(".bias") and "norm" not in name}
    assert len(biases) == 2 * 6 + 1 and not any(tensor.any() for tensor in biases.values())


@pytest.mark.parametrize(
    ("family", "rope", "kind"),
    [
        ("falcon", {"rope_theta": 500042.0}, "default"),
        ("falcon", {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ("gpt_neox", {"rotary_pct": 0.5, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
    ],
)
def test_rope_as_older_versions_write_it(family: str, rope: dict[str, Any], kind: str, tmp_path: Path) -> None:
    _, folder = saved(tmp_path, family)
    edit_config(folder, ("rope_parameters",), **rope)
    parent = load_parent(str(folder))
    convert(parent, folder, tmp_path / "out", PADDED)
    written = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert (written["rope_type"], written["rope_theta"]) == (kind, rope.get("rope_theta", 10000.0))
    assert_same(parent, tmp_path / "out", PADDED)


def test_what_config_json_leaves_out_is_what_transformers_takes(tmp_path: Path) -> None:
    """As published: the defaults of a Falcon are not those of a Phi."""
    _, folder = saved(tmp_path, "falcon", hidden=48, ffn_hidden_size=192, tied=True)
    left_out = ("ffn_hidden_size", "activation", "layer_norm_epsilon", "max_position_embeddings", "rope_parameters")
    more = ("tie_word_embeddings", "bos_token_id", "eos_token_id", "num_ln_in_parallel_attn", "hidden_dropout")
    edit_config(folder, (*left_out, *more))
    parent = load_parent(str(folder))
    assert parent.family.context_length(parent.config) == 2048
    convert(parent, folder, tmp_path / "out", SYMMETRIC)
    assert_same(parent, tmp_path / "out", SYMMETRIC)
    written, own = load(tmp_path / "out").config, parent.model.config
    for name in ("max_position_embeddings", "tie_word_embeddings", "bos_token_id", "eos_token_id"):
        assert getattr(written, name) == getattr(own, name), name
    assert "lm_head.weight" not in stored_tensors(tmp_path / "out")


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"alibi": True}, r"this Falcon has ALiBi .alibi true.: the bias on a head's scores"),
        ({"parallel_attn": False}, r"its MLP reads what attention wrote .parallel_attn false."),
        ({"num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn is 1, or 2 with .*got 3"),
        ({**HEAD_BY_HEAD, "num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn is 1, or 2 with .*got 2"),
        ({**ONE_NORM, "new_decoder_architecture": False}, "all query heads of this Falcon share one KV head"),
        ({"num_kv_heads": 1}, "all query heads of this Falcon share one KV head"),
        ({**HEAD_BY_HEAD, **ONE_NORM, "num_kv_heads": 3}, "num_kv_heads must be num_attention_heads=6, got 3"),
    ],
)
def test_what_no_phi_computes_is_refused_before_anything_is_written(
    field: dict[str, Any], message: str, tmp_path: Path
) -> None:
    parent, folder = saved(tmp_path, "falcon")
    edit_config(folder, **field)
    with pytest.raises(UserError, match=message):
        load_parent(str(folder))
    with pytest.raises(UserError, match=message):
        convert(parent, folder, tmp_path / "out", SYMMETRIC)
    assert not (tmp_path / "out").exists()


def test_targets_are_those_of_a_phi() -> None:
    config = {"architectures": ["FalconForCausalLM"], "hidden_size": 48, "num_attention_heads": 6, "vocab_size": 9}
    config |= {"num_hidden_layers": 2, "new_decoder_architecture": True}
    family = family_of(config)
    assert plan_checkpoint(family, config, PADDED, target="vllm").name == "stock-padded"
    with pytest.raises(UserError, match=r"llama\.cpp loads no converted PhiForCausalLM: it expects a Phi to have as"):
        plan_checkpoint(family, config, SYMMETRIC, target="llama.cpp")

"""GPT-NeoX written as a stock Phi: the same logits, whatever the source's shards, dtype and age."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gqasearch.errors import UserError
from gqasearch.models import load_parent
from tests.checkpoints.convert import (
    PADDED,
    SYMMETRIC,
    convert,
    stored_tensors,
)
from tests.checkpoints.phi import GROUPINGS, check_ragged, check_stock, check_without_groups
from tests.checkpoints.test_stock import assert_same, saved
from tests.tiny_models import edit_config, save_checkpoint, tiny_model


@pytest.mark.parametrize("layout", GROUPINGS)
@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_parent_with_tied_heads(layout: str, tied: bool, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "gpt_neox", tied=tied)
    check_stock(parent, folder, tmp_path / "out", layout)


def test_without_groups_it_computes_what_the_source_does(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "gpt_neox")
    check_without_groups(parent, folder, tmp_path / "out")


def test_tensors_that_only_change_their_name_keep_their_bytes(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "gpt_neox", dtype=torch.bfloat16)
    convert(parent, folder, tmp_path / "out", SYMMETRIC)
    source, written = stored_tensors(folder), stored_tensors(tmp_path / "out")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    for phi, neox in (
        ("model.embed_tokens.weight", "gpt_neox.embed_in.weight"),
        ("model.layers.1.mlp.fc2.weight", "gpt_neox.layers.1.mlp.dense_4h_to_h.weight"),
        ("model.layers.0.self_attn.dense.bias", "gpt_neox.layers.0.attention.dense.bias"),
        ("model.final_layernorm.bias", "gpt_neox.final_layer_norm.bias"),
    ):
        assert torch.equal(written[phi], source[neox])
    assert not written["lm_head.bias"].any() and written["lm_head.bias"].shape == written["lm_head.weight"].shape[:1]


def as_published(folder: Path) -> None:
    """Two shards that share a layer, masks and frequencies stored, names and config.json as of version 4."""
    tensors = {name.replace("lm_head", "embed_out"): t for name, t in load_file(folder / "model.safetensors").items()}
    for layer in range(2):
        path = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{path}.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
        tensors[f"{path}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{path}.rotary_emb.inv_freq"] = torch.ones(2)
    first = {n: t for n, t in tensors.items() if ".layers.0." in n or "query_key_value" in n}
    parts = {"model-1.safetensors": first, "model-2.safetensors": {n: t for n, t in tensors.items() if n not in first}}
    (folder / "model.safetensors").unlink()
    for shard, part in parts.items():
        save_file(part, folder / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, part in parts.items() for name in part}
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    config |= {"rotary_pct": 0.5, "rotary_emb_base": 10000}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_checkpoint_as_pythia_was_published(tmp_path: Path) -> None:
    _, folder = saved(tmp_path, "gpt_neox")
    as_published(folder)
    parent = load_parent(str(folder))
    convert(parent, folder, tmp_path / "out", PADDED)
    assert_same(parent, tmp_path / "out", PADDED)
    names = stored_tensors(tmp_path / "out").keys()
    assert not any("masked" in name or "rotary" in name or name.endswith("self_attn.bias") for name in names)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == names


@pytest.mark.parametrize("family", ["gpt_neox", "falcon"])
def test_names_without_the_first_part_and_a_tied_head_stored_in_place_of_the_embeddings(
    family: str, tmp_path: Path
) -> None:
    folder = save_checkpoint(tiny_model(family, tied=True), tmp_path / "source")
    tensors = {name.partition(".")[2]: tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    parent = load_parent(str(folder))
    convert(parent, folder, tmp_path / "bare", SYMMETRIC)
    assert_same(parent, tmp_path / "bare", SYMMETRIC)
    embeddings = next(name for name in tensors if "embed" in name)
    tensors["lm_head.weight"] = tensors.pop(embeddings)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    convert(parent, folder, tmp_path / "head", SYMMETRIC)
    assert_same(parent, tmp_path / "head", SYMMETRIC)


@pytest.mark.parametrize(
    "missing", ["gpt_neox.final_layer_norm.bias", "lm_head.weight", "gpt_neox.layers.1.mlp.dense_4h_to_h.bias"]
)
def test_a_tensor_that_is_not_there_is_named(missing: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "gpt_neox")
    published = {"lm_head.weight": "embed_out.weight"}.get(missing, missing)
    stored = load_file(folder / "model.safetensors")
    left = {name: tensor for name, tensor in stored.items() if name not in (missing, published)}
    assert len(left) == len(stored) - 1
    save_file(left, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"has no tensor {missing}$"):
        convert(parent, folder, tmp_path / "out", SYMMETRIC)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "message"),
    [({"use_parallel_residual": False}, "its MLP reads what attention wrote")],
)
def test_what_no_phi_computes_is_refused_before_anything_is_written(
    field: dict[str, Any], message: str, tmp_path: Path
) -> None:
    parent, folder = saved(tmp_path, "gpt_neox")
    edit_config(folder, **field)
    with pytest.raises(UserError, match=message):
        convert(parent, folder, tmp_path / "out", SYMMETRIC)
    assert not (tmp_path / "out").exists()


def test_attention_without_biases_gets_those_that_its_norm_leaves(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "gpt_neox", attention_bias=False)
    convert(parent, folder, tmp_path / "out", PADDED)
    assert_same(parent, tmp_path / "out", PADDED)
    written = stored_tensors(tmp_path / "out")
    assert written["model.layers.1.self_attn.q_proj.bias"].any()
    assert not written["model.layers.1.self_attn.dense.bias"].any()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_layers_that_differ_make_a_ragged_phi(implementation: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "gpt_neox")
    check_ragged(parent, folder, tmp_path / "out", implementation)

"""``--model x.gguf``: dequantised as the package gguf does, and nothing computed on weights that were not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

import gqasearch.models.gguf.file as gguf_file
from gqasearch.errors import UserError
from gqasearch.models import load_parent, resolve_model
from tests.checkpoints.convert import some_ids, stored_tensors
from tests.checkpoints.gguf_parent import write_parent
from tests.checkpoints.uneven import saved


def write(tmp_path: Path, family: str = "llama", kind: Type = Type.F32, **options: Any) -> tuple[Path, Path]:
    """A tiny model's folder and its GGUF file, matrices of ``kind``."""
    _, source = saved(tmp_path, family, head_dim=32, **options)
    return source, write_parent(source, tmp_path / "model.gguf", lambda name: kind)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16])
def test_numbers_come_out_as_they_went_in(family: str, kind: Type, tmp_path: Path) -> None:
    source, file = write(tmp_path, family, kind, kv_heads=3, tied=family == "llama")
    dtype = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}[kind]
    wanted, found = stored_tensors(source), stored_tensors(resolve_model(str(file)).directory)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        own = dtype if tensor.dim() > 1 else torch.float32
        assert found[name].dtype == own
        assert torch.equal(found[name], tensor.to(own)), name
    assert resolve_model(str(file)).config["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("kind", [Type.Q8_0, Type.Q4_1, Type.Q5_0])
def test_quantised_numbers_are_dequantised_as_gguf_does(kind: Type, tmp_path: Path) -> None:
    """To float16; each tensor by gguf's own code, rows of q and k put back as they were."""
    source, file = write(tmp_path, "llama", kind, kv_heads=3)
    wanted, found = stored_tensors(source), stored_tensors(resolve_model(str(file)).directory)
    for name, tensor in wanted.items():
        if tensor.dim() == 1:
            assert torch.equal(found[name], tensor)
            continue
        # Blocks lie along rows, so quantising before or after rows are reordered is the same.
        values = gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), kind), kind)
        assert torch.equal(found[name], torch.from_numpy(values).half()), name
        assert not torch.equal(found[name], tensor.half())


def test_logits_are_the_original_models(tmp_path: Path) -> None:
    source, file = write(tmp_path, "qwen3", kv_heads=2, hidden=96)
    with torch.no_grad():
        ids = some_ids()
        assert torch.equal(load_parent(str(file)).model(ids).logits, load_parent(str(source)).model(ids).logits)


def edited(file: Path, keys: dict[str, Any], drop: str = "", tensors: dict[str, Any] | None = None) -> Path:
    """A copy with other metadata, without one tensor, and with others in place of or beside the rest."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(file.with_name("edited.gguf"), str(keys.get("general.architecture", "llama")))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in keys:
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for key, value in keys.items():
        if value is None or key == "general.architecture":
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            kind = gguf.GGUFValueType.get_type(value)
            writer.add_key_value(key, value, gguf.GGUFValueType.UINT32 if type(value) is int else kind)
    own = {tensor.name: tensor.data for tensor in reader.tensors if tensor.name != drop} | (tensors or {})
    for name, data in own.items():
        writer.add_tensor(name, np.array(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file.with_name("edited.gguf")


NAN = np.full((192, 192), np.nan, dtype=np.float32)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": (
        {"keys": {"general.architecture": "mamba"}},
        "architecture 'mamba', which is not read; read",
    ),
    "heads that differ by layer": (
        {"keys": {"llama.attention.head_count_kv": [3, 6]}},
        r"head_count_kv is \[3, 6\], another number for each layer",
    ),
    "heads that do not divide": ({"keys": {"llama.attention.head_count_kv": 4}}, "4 KV heads do not divide 6"),
    "no number": ({"keys": {"llama.block_count": "two"}}, "llama.block_count is 'two'; a whole number from 1 on"),
    "a key that is missing": ({"keys": {"llama.embedding_length": None}}, "llama.embedding_length is None; a whole"),
    "an unknown key": ({"keys": {"llama.attention.scale": 0.5}}, "llama.attention.scale = 0.5 says something"),
    "experts": ({"keys": {"llama.expert_count": 8}}, "llama.expert_count = 8 says something of the model"),
    "no decoder": ({"keys": {"llama.attention.causal": False}}, "is an encoder"),
    "partial rotary": ({"keys": {"llama.rope.dimension_count": 16}}, "RoPE turns 16 of 32 dimensions"),
    "another RoPE": ({"keys": {"llama.rope.scaling.type": "su"}}, "RoPE of type su is not read"),
    "more layers than tensors": (
        {"keys": {"llama.block_count": 3}},
        "has no tensor blk.2.attn_q.weight, which a Llama",
    ),
    "fewer layers than tensors": ({"keys": {"llama.block_count": 1}}, r"blk.1.attn_k.weight and 8 more belongs to"),
    "a tensor that is missing": ({"drop": "blk.1.attn_v.weight"}, "has no tensor blk.1.attn_v.weight"),
    "a tensor that nothing reads": (
        {"tensors": {"blk.0.attn_k_norm.weight": np.ones(32, dtype=np.float32)}},
        "blk.0.attn_k_norm.weight belongs to nothing that a LlamaForCausalLM computes",
    ),
    "a bias of one layer": (
        {"tensors": {"blk.0.attn_q.bias": np.ones(192, dtype=np.float32)}},
        "has no tensor blk.0.attn_k.bias",
    ),
    "another shape": (
        {"tensors": {"blk.0.attn_k.weight": np.ones((64, 192), dtype=np.float32)}},
        r"blk.0.attn_k.weight has shape \(64, 192\); by the file's metadata it has \(192, 192\)",
    ),
    "NaN": ({"tensors": {"blk.1.attn_output.weight": NAN}}, "blk.1.attn_output.weight holds values that are NaN"),
    "factors of no RoPE": (
        {"tensors": {"rope_freqs.weight": np.zeros(16, dtype=np.float32)}},
        "rope_freqs.weight holds values that are not finite and above 0",
    ),
    "factors of another head": (
        {"tensors": {"rope_freqs.weight": np.ones(8, dtype=np.float32)}},
        "rope_freqs.weight has 8 values, the heads have 16 pairs",
    ),
    "an unknown tokenizer": ({"keys": {"tokenizer.ggml.model": "rwkv"}}, "tokenizer is of kind 'rwkv'"),
    "an unknown split": ({"keys": {"tokenizer.ggml.pre": "gpt-3"}}, "gpt-3'.; did you mean 'gpt-2'"),
    "no split": ({"keys": {"tokenizer.ggml.pre": None}}, "splits text in a way that is not known"),
    "too many tokens": (
        {"keys": {"tokenizer.ggml.tokens": [f"t{i}" for i in range(300)]}},
        "has 300 tokens, the model",
    ),
    "a token beyond the last": (
        {"keys": {"tokenizer.ggml.bos_token_id": 259}},
        "has 259 tokens, and .*bos_token_id = 259",
    ),
    "merges of no tokens": ({"keys": {"tokenizer.ggml.merges": ["a b"]}}, "makes of 'a' and 'b' what is no token"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(case: str, tmp_path: Path) -> None:
    _, file = write(tmp_path)
    options, message = REFUSED[case]
    made = edited(file, options.get("keys", {}), options.get("drop", ""), options.get("tensors"))
    with pytest.raises(UserError, match=message) as caught:
        resolve_model(str(made))
    assert "\n" not in str(caught.value)
    assert "edited.gguf" in str(caught.value) or "rope_freqs" in str(caught.value)


def test_it_is_edited_that_is_refused(tmp_path: Path) -> None:
    """The copies above are refused for what was changed: a copy without a change is the model."""
    source, file = write(tmp_path)
    found = stored_tensors(resolve_model(str(edited(file, {}))).directory)
    assert all(torch.equal(found[name], tensor) for name, tensor in stored_tensors(source).items())


def test_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = write(tmp_path, seed=7)  # of a content that no other test has made a folder of
    (tmp_path / "short.gguf").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"short\.gguf is no GGUF file, or damaged"):
        resolve_model(str(tmp_path / "short.gguf"))
    (tmp_path / "words.gguf").write_text("words")
    with pytest.raises(UserError, match="is a file, and no GGUF file"):
        resolve_model(str(tmp_path / "words.gguf"))
    with pytest.raises(UserError, match="--revision abc is of models on the hub"):
        resolve_model(str(file), "abc")

    def missing() -> Any:
        raise UserError("GGUF files need the package gguf")

    monkeypatch.setattr(gguf_file, "import_gguf", missing)
    with pytest.raises(UserError, match="need the package gguf"):
        resolve_model(str(file))


def test_the_folder_of_another_content_is_another(tmp_path: Path) -> None:
    _, file = write(tmp_path)
    first = resolve_model(str(file)).directory
    write_parent(tmp_path / "source", file, lambda name: Type.F16)
    second = resolve_model(str(file)).directory
    assert second != first
    config = json.loads((second / "config.json").read_text())
    assert config["dtype"] == "float16" and resolve_model(str(first)).config["dtype"] == "float32"

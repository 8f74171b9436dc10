"""A GGUF file of a checkpoint as llama.cpp's converter writes it; tests/clients compares the two."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray
from torch import Tensor

from tests.checkpoints.convert import config_of, stored_tensors

PAIRED = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")


def write_parent(
    folder: Path,
    path: Path,
    kind_of: Callable[[str], Type] = lambda name: Type.F32,
    *,
    renamed: Mapping[str, str] = MappingProxyType({}),
    alignment: int = 32,
    parts: int = 1,
) -> Path:
    """``kind_of``: GGUF name of a matrix -> type; ``renamed``: GGUF names of tensors that get another."""
    config: dict[str, Any] = dict(config_of(folder))
    arch = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, arch)
    _add_sizes(writer, config, arch)
    _add_tokenizer(writer, folder, config)
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    for source, tensor in stored_tensors(folder).items():
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        assert name is not None
        values = _paired(tensor, config["head_dim"]) if arch == "llama" and source.endswith(PAIRED) else tensor
        kind = kind_of(name) if tensor.dim() > 1 else Type.F32
        writer.add_tensor(renamed.get(name, name), encode(values.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def encode(values: NDArray[np.float32], kind: Type) -> NDArray[Any]:
    """As gguf writes it; of types that it cannot write, bytes that are as many."""
    try:
        encoded: NDArray[Any] = gguf.quants.quantize(np.ascontiguousarray(values), kind)
    except NotImplementedError:
        shape = gguf.quant_shape_to_byte_shape(values.shape, kind)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return encoded


def _paired(tensor: Tensor, head_dim: int) -> Tensor:
    """Rows 0, d/2, 1, d/2 + 1, ... of every head."""
    order = [half * (head_dim // 2) + pair for pair in range(head_dim // 2) for half in range(2)]
    return tensor.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)


def _add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any], arch: str) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if arch == "llama":
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(config["head_dim"])


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if writer.arch == "qwen2" else "gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([control if token in special else normal for token in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]] or ["aa bb"])  # of no tokens
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])

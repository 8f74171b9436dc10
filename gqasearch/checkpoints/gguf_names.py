"""How llama.cpp lays out and names attention, by architecture.

In its own converter (ggml-org/llama.cpp, conversion/llama.py, deci.py, qwen.py) rows of q and k of Llama's kin are
reordered, from RoPE pairs half a head apart to pairs side by side; those of Qwen stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from gqasearch.checkpoints.heads_in_config import kv_heads_of
from gqasearch.errors import UserError
from gqasearch.models import CheckpointTensors, Config
from gqasearch.models.family import joined_of
from gqasearch.models.gguf.file import GgufFile, import_gguf, shape_of

# llama.cpp's architecture of the parent -> architectures in config.json of the converted checkpoint, and llama.cpp's
# name for that.
CONVERTED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        # A MiMo of ours has sinks and windows that do nothing: what is left is the network of a DeciLM.
        "llama": {
            **dict.fromkeys(("LlamaForCausalLM", "MistralForCausalLM"), "llama"),
            **dict.fromkeys(("DeciLMForCausalLM", "MiMoV2FlashForCausalLM", "AnyModel"), "deci"),
        },
        "qwen2": {"Qwen2ForCausalLM": "qwen2"},
        "qwen3": {"Qwen3ForCausalLM": "qwen3"},
    }
)
PAIRS_SIDE_BY_SIDE = ("llama", "deci")
PROJECTIONS = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}
WEIGHTS = tuple(f"{name}.weight" for name in PROJECTIONS)
BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias")  # that of attn_output no conversion changes


def source_name(tensor: str, layer: int) -> str:
    """The checkpoint's name of ``attn_q.weight`` and the like; one for all architectures above."""
    projection, kind = tensor.split(".")
    return f"model.layers.{layer}.self_attn.{PROJECTIONS[projection]}.{kind}"


def trained_names(source: CheckpointTensors, architecture: str, layers: int) -> dict[str, str]:
    """llama.cpp's name -> the checkpoint's, of all tensors that it names in ``architecture``, its own word."""
    gguf = import_gguf()
    known = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(known, layers)
    found = {names.get_name(stored, try_suffixes=(".weight", ".bias")): stored for stored in source.shard_of}
    return {name: stored for name, stored in found.items() if name is not None}


@dataclass(frozen=True)
class GgufHeads:
    """Attention of the file to write.

    ``architecture``, ``parent_architecture``: llama.cpp's names; ``tensors``: those of every block that are replaced;
    ``kv_heads_per_layer`` (L,); ``joined``: how many of the parent's heads have room in one (``models.joined``), and
    ``rope_factors`` (d/2,), what divides its frequencies then.
    """

    architecture: str
    parent_architecture: str
    tensors: tuple[str, ...]
    query_heads: int
    kv_heads_per_layer: tuple[int, ...]
    head_dim: int
    hidden_size: int
    joined: int = 1
    rope_factors: tuple[float, ...] = ()

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.kv_heads_per_layer)

    def shape(self, tensor: str, layer: int) -> tuple[int, ...]:
        """Of one replaced tensor, rows first."""
        projection, kind = tensor.split(".")
        kv = projection in ("attn_k", "attn_v")
        width = (self.kv_heads_per_layer[layer] if kv else self.query_heads) * self.head_dim
        if kind == "bias":
            return (width,)
        return (self.hidden_size, width) if projection == "attn_output" else (width, self.hidden_size)

    def permute(self, values: Tensor, tensor: str) -> Tensor:
        """Rows of q and k, (heads * d, ...), in llama.cpp's order; other tensors as they are."""
        if self.architecture not in PAIRS_SIDE_BY_SIDE or not tensor.startswith(("attn_q.", "attn_k.")):
            return values
        by_pair = values.unflatten(0, (-1, 2, self.head_dim // 2))  # (heads, half, pair, ...)
        reordered: Tensor = by_pair.transpose(1, 2).flatten(0, 2)
        return reordered.contiguous()


def heads_of(file: GgufFile, config: Config, checkpoint: Path) -> GgufHeads:
    """Attention of ``config``, the converted checkpoint's, in the words of the parent's file.

    Raises ``UserError`` where llama.cpp has no form for it or the two do not belong together.
    """
    parent = str(file.value("general.architecture"))
    if parent not in CONVERTED:
        raise UserError(f"{file.path} is of architecture {parent}; GGUF export knows {', '.join(CONVERTED)}")
    found = str(config["architectures"][0])
    if config.get("kv_group_heads") is not None:
        raise UserError(
            f"{checkpoint} has keys and values that were grouped apart (--separate-kv); llama.cpp has one KV head, key "
            "and value, for every query"
        )
    if found.startswith("Ragged"):
        raise UserError(
            f"{checkpoint} has layout ragged, whose groups of any size llama.cpp cannot say. Materialize the grouping "
            "with --layout stock, or --layout deci where layers differ in their number of groups"
        )
    if found not in CONVERTED[parent]:
        raise UserError(
            f"{checkpoint} is a {found}; of a parent of architecture {parent} it would be "
            f"{' or '.join(CONVERTED[parent])}"
        )
    heads = int(config["num_attention_heads"])
    counts = kv_heads_of(config)
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    architecture, joined = CONVERTED[parent][found], joined_of(config)
    if architecture == "qwen2" and (joined > 1 or heads * head_dim != config["hidden_size"]):
        architecture = "llama"  # the same network, and it may have biases; llama.cpp's qwen2 takes no head size
    made = GgufHeads(
        architecture,
        parent,
        WEIGHTS + tuple(name for name in BIASES if f"blk.0.{name}" in file.tensors),
        heads,
        tuple(int(count) for count in counts),
        head_dim,
        int(config["hidden_size"]),
        joined,
        _rope_factors(config, checkpoint) if joined > 1 else (),
    )
    _require_fit(file, made, checkpoint)
    return made


def _rope_factors(config: Config, checkpoint: Path) -> tuple[float, ...]:
    """llama.cpp divides the frequencies of a Llama by one list of factors, whatever the length of the text."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("short_factor") != rope.get("long_factor") or rope.get("attention_factor", 1.0) != 1.0:
        raise UserError(
            f"{checkpoint} has joined heads whose RoPE is another for long texts, or scales scores: llama.cpp has no "
            "form for both"
        )
    return tuple(float(factor) for factor in rope["short_factor"])


def _require_fit(file: GgufFile, heads: GgufHeads, checkpoint: Path) -> None:
    """Raise ``UserError`` where the parent's sizes are others than the checkpoint's, or q, k and v are one tensor."""
    prefix, own_dim = heads.parent_architecture, heads.head_dim // heads.joined
    sizes = {
        "block_count": heads.num_layers,
        "embedding_length": heads.hidden_size,
        "attention.key_length": own_dim,
        "attention.value_length": own_dim,
        "rope.dimension_count": own_dim,
    }
    for key, expected in sizes.items():
        given = file.value(f"{prefix}.{key}")
        if given is not None and given != expected:
            raise UserError(f"{file.path} says {prefix}.{key} = {given}, {checkpoint} has {expected}")
    for layer in range(heads.num_layers):
        for name in heads.tensors:
            if f"blk.{layer}.{name}" not in file.tensors:
                fused = f"blk.{layer}.attn_qkv.weight" in file.tensors
                words = "stores q, k and v as one tensor, attn_qkv" if fused else f"has no tensor blk.{layer}.{name}"
                raise UserError(f"{file.path} {words}; convert the parent anew with separate ones")
    rows = shape_of(file.tensors["blk.0.attn_q.weight"])
    if rows[0] % own_dim or rows[1] != heads.hidden_size:
        raise UserError(f"{file.path}: blk.0.attn_q.weight has shape {rows}, which has no heads of {own_dim}")

"""A GGUF file of a converted model, made from one of its parent.

Only what a conversion changes is replaced: the attention's projections and the keys that count heads. All else,
tokenizer and quantised tensors too, is copied byte for byte. So the parent may come from any version of llama.cpp's
converter, which knows its tokenizer, and llama.cpp needs no converter that knows our checkpoints.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gqasearch.checkpoints.gguf_file import NewTensor, int32_array, string, uint32, write_gguf
from gqasearch.checkpoints.gguf_names import GgufHeads, heads_of, source_name, trained_names
from gqasearch.checkpoints.healed import is_healed
from gqasearch.errors import UserError
from gqasearch.models import CheckpointTensors, read_config
from gqasearch.models.gguf.file import GgufFile, import_gguf, shape_of

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

ROPE_FREQS = "rope_freqs.weight"  # what llama.cpp divides a Llama's frequencies by
UNQUANTISED = ("F32", "F16", "BF16")
# Those that the package gguf can write; ternary types, which it can too, fit no other weights.
WRITABLE = (*UNQUANTISED, "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
LEAST = ("Q4_0", "Q8_0", "F16")  # what may be asked for


@dataclass(frozen=True)
class GgufExport:
    """What was written.

    ``architecture``: of the file, llama.cpp's name; ``kv_heads_per_layer`` (L,); ``replaced``: type -> how many
    tensors; ``widened``: parent's type -> how many of them are of a wider one; ``copied``: tensors as they were.
    """

    architecture: str
    kv_heads_per_layer: tuple[int, ...]
    replaced: dict[str, int]
    widened: dict[str, int]
    copied: int


def export_gguf(
    parent: Path, checkpoint: Path, out: Path, *, overwrite: bool = False, least: str = "Q8_0"
) -> GgufExport:
    """Write to ``out`` the GGUF file ``parent`` with the attention of ``checkpoint``, converted from the same model.

    Of a checkpoint that was healed, all tensors are the checkpoint's. Those that are replaced keep the parent's type
    where the package gguf can write it, and become F16 where not. Attention of a quantised parent was rounded once
    already: what the conversion changed of it is written in ``least`` where the parent's type has fewer bits, and what
    it left as it was is copied.
    One tensor is in memory at a time; ``out`` appears only when complete.

    Raises ``UserError`` for a ``least`` not in ``LEAST``, for a parent that is no little-endian GGUF file of one part,
    for architectures and layouts that llama.cpp has no form for, for a checkpoint of another model, and when ``out``
    exists (unless ``overwrite``), is the parent, or cannot be written.
    """
    if least not in LEAST:
        raise UserError(f"least is {least!r}; choose from {', '.join(LEAST)}")
    file = GgufFile(parent)
    heads = heads_of(file, read_config(checkpoint), checkpoint)
    source = CheckpointTensors(checkpoint)
    healed = is_healed(checkpoint)
    if not healed:
        _require_same_model(file, source, heads)
    if out.exists() and out.samefile(parent):
        raise UserError(f"{out} is the parent itself; give --output another name")
    named = _attention_names(heads) | (
        trained_names(source, heads.parent_architecture, heads.num_layers) if healed else {}
    )
    replaced = {
        name: stored
        for name, stored in named.items()
        if name in file.tensors and not _is_as_it_was(file, source, heads, name, stored)
    }
    own = [name for name in file.tensors if not (heads.joined > 1 and name == ROPE_FREQS)]
    tensors = [_new_tensor(file, source, heads, name, replaced.get(name), least) for name in own]
    if heads.joined > 1:
        factors = np.array(heads.rope_factors, dtype=np.float32)
        kind = import_gguf().GGMLQuantizationType.F32
        tensors.insert(0, NewTensor(ROPE_FREQS, factors.shape, kind, lambda: factors))
    write_gguf(out, _metadata(file, heads), tensors, int(file.reader.alignment), overwrite=overwrite)
    types = {name: file.tensors[name].tensor_type.name for name in replaced}
    new = {tensor.name: tensor.type.name for tensor in tensors}
    return GgufExport(
        architecture=heads.architecture,
        kv_heads_per_layer=heads.kv_heads_per_layer,
        replaced=dict(Counter(new[name] for name in types)),
        widened=dict(Counter(old for name, old in types.items() if new[name] != old)),
        copied=len(own) - len(types),
    )


def _metadata(file: GgufFile, heads: GgufHeads) -> dict[str, bytes]:
    """The parent's metadata under the new architecture's name, with the new numbers of heads."""
    old, new = f"{heads.parent_architecture}.", f"{heads.architecture}."
    kept = {new + key.removeprefix(old) if key.startswith(old) else key: raw for key, raw in file.metadata.items()}
    counts = heads.kv_heads_per_layer
    kv_heads = uint32(counts[0]) if len(set(counts)) == 1 else int32_array(counts)
    own = {
        "general.architecture": string(heads.architecture),
        f"{new}attention.head_count": uint32(heads.query_heads),
        f"{new}attention.head_count_kv": kv_heads,
    }
    # What llama.cpp takes from hidden size / heads where it is not said.
    head_dim = uint32(heads.head_dim)
    derived = (f"{new}attention.key_length", f"{new}attention.value_length")
    if heads.joined > 1:  # the factors say all of it
        kept = {key: raw for key, raw in kept.items() if not key.startswith(f"{new}rope.scaling.")}
        return kept | own | dict.fromkeys((*derived, f"{new}rope.dimension_count"), head_dim)
    return kept | own | {key: head_dim for key in derived if key not in kept}


def _attention_names(heads: GgufHeads) -> dict[str, str]:
    """Tensors that a conversion changes: the file's name -> the checkpoint's."""
    layers = range(heads.num_layers)
    return {f"blk.{layer}.{name}": source_name(name, layer) for layer in layers for name in heads.tensors}


def _new_tensor(
    file: GgufFile, source: CheckpointTensors, heads: GgufHeads, name: str, stored_name: str | None, least: str
) -> NewTensor:
    """As in the parent, or from the checkpoint, which calls it ``stored_name``."""
    tensor = file.tensors[name]
    if stored_name is None:
        return NewTensor(name, shape_of(tensor), tensor.tensor_type, lambda: tensor.data)
    block, _, rest = name.removeprefix("blk.").partition(".")
    shape = heads.shape(rest, int(block)) if rest in heads.tensors else shape_of(tensor)
    kind = _writable(tensor.tensor_type, shape[-1], least if rest in heads.tensors else LEAST[0])

    def data() -> NDArray[Any]:
        stored = source.read(stored_name)
        if tuple(stored.shape) != shape:
            raise UserError(
                f"{source.directory}: {stored_name} has shape {tuple(stored.shape)}, but "
                f"{'config.json' if rest in heads.tensors else file.path} says {shape}"
            )
        return _encode(heads.permute(stored.float(), rest).numpy(), kind, name)

    return NewTensor(name, shape, kind, data)


def _writable(kind: GGMLQuantizationType, row: int, least: str) -> GGMLQuantizationType:
    """The parent's type, or one of more bits: ``least`` where it has fewer; F16 where that cannot be written, or a row
    of this length has no whole blocks of it.
    """
    gguf = import_gguf()
    types, sizes = gguf.GGMLQuantizationType, gguf.GGML_QUANT_SIZES
    bits = {one: 8 * nbytes / values for one, (values, nbytes) in sizes.items()}
    if kind.name not in UNQUANTISED and bits[kind] < bits[types[least]]:
        kind = types[least]
    wide: GGMLQuantizationType = types.F16
    return kind if kind.name in WRITABLE and row % sizes[kind][0] == 0 else wide


def _is_as_it_was(file: GgufFile, source: CheckpointTensors, heads: GgufHeads, name: str, stored_name: str) -> bool:
    """Whether a quantised tensor's values are in the checkpoint what they are in the parent's file."""
    tensor, rest = file.tensors[name], name.removeprefix("blk.").partition(".")[2]
    if tensor.tensor_type.name in UNQUANTISED or source.stored(stored_name).shape != shape_of(tensor):
        return False
    stored = source.read(stored_name)
    return torch.equal(heads.permute(stored, rest), torch.from_numpy(file.values(name)).to(stored.dtype))


def _encode(values: NDArray[np.float32], kind: GGMLQuantizationType, name: str) -> NDArray[Any]:
    if kind.name == "F16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise UserError(
            f"{name} of the converted model holds values that float16 has not; give a parent in F32 or BF16"
        )
    encoded: NDArray[Any] = import_gguf().quants.quantize(np.ascontiguousarray(values), kind)
    return encoded


def _require_same_model(file: GgufFile, source: CheckpointTensors, heads: GgufHeads) -> None:
    """Raise ``UserError`` where tensors that no conversion changes differ: norms, and a row of every MLP.

    What the parent stores quantised is not compared.
    """
    names = {"output_norm.weight": "model.norm.weight"}
    for layer in range(heads.num_layers):
        names[f"blk.{layer}.attn_norm.weight"] = f"model.layers.{layer}.input_layernorm.weight"
        names[f"blk.{layer}.ffn_down.weight"] = f"model.layers.{layer}.mlp.down_proj.weight"
    gguf = import_gguf()
    for name, source_tensor in names.items():
        if name not in file.tensors:
            raise UserError(f"{file.path} has no tensor {name}")
        tensor = file.tensors[name]
        if tensor.tensor_type.name not in UNQUANTISED:
            continue
        stored = source.read(source_tensor)
        expected = gguf.quants.quantize(stored.reshape(-1, stored.shape[-1])[:1].float().numpy(), tensor.tensor_type)
        own = tensor.data.reshape(-1, tensor.data.shape[-1])[:1]
        if own.tobytes() != expected.tobytes():
            raise UserError(
                f"{file.path} is not of the model that {source.directory} was converted from: {name} differs. "
                "Convert both from the same checkpoint"
            )

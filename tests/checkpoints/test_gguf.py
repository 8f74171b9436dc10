"""GGUF files of converted checkpoints: what is replaced, what is not, and what is refused.

That llama.cpp computes the same with them is tested in tests/clients.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader
from safetensors.torch import save_file

from gqasearch.checkpoints import export_gguf, write_checkpoint, write_joined
from gqasearch.checkpoints.gguf_file import NewTensor, string, write_gguf
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import LayerWeights, load_parent, resolve_model
from gqasearch.models.gguf.file import GgufFile, shape_of
from tests.checkpoints.convert import PADDED, SYMMETRIC, changed_layer, config_of, document_for, stored_tensors
from tests.checkpoints.gguf_parent import encode, write_parent
from tests.checkpoints.uneven import UNEVEN, saved, write
from tests.tiny_models import edit_config, save_checkpoint, tiny_model

PROJECTIONS = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}
WIDE: dict[str, Any] = {"heads": 8, "head_dim": 32, "layers": 1}  # rows of 256, which every type has blocks for
PAIRS = Grouping.from_labels([[0, 1, 2, 3, 3, 2, 1, 0]])


def converted(
    tmp_path: Path,
    family: str = "llama",
    grouping: Grouping = SYMMETRIC,
    layout: LayoutChoice = "stock",
    **options: Any,
) -> tuple[Path, Path]:
    """Source and converted checkpoint."""
    parent, source = saved(tmp_path, family, **options)
    write(parent, source, tmp_path / "out", grouping, layout)
    return source, tmp_path / "out"


def metadata_bytes(reader: GGUFReader) -> dict[str, bytes]:
    """Everything between one key and the next."""
    fields = [(key, field) for key, field in reader.fields.items() if not key.startswith("GGUF.")]
    return {key: b"".join(part.tobytes() for part in field.parts[2:]) for key, field in fields}


def expected_tensor(name: str, stored: dict[str, torch.Tensor], paired: bool, head_dim: int) -> np.ndarray:
    """From the checkpoint, in llama.cpp's order of rows: row 2p + h of a head is row p + h * d / 2."""
    _, layer, projection, kind = name.split(".")
    values = stored[f"model.layers.{layer}.self_attn.{PROJECTIONS[projection]}.{kind}"].float().numpy()
    if not paired or projection not in ("attn_q", "attn_k"):
        return values
    out = np.empty_like(values)
    for row in range(len(values)):
        head, inside = divmod(row, head_dim)
        out[row] = values[head * head_dim + inside // 2 + inside % 2 * (head_dim // 2)]
    return out


@pytest.mark.parametrize(
    ("family", "grouping", "layout", "architecture"),
    [
        ("llama", SYMMETRIC, "stock", "llama"),
        ("llama", PADDED, "stock", "llama"),
        ("llama", UNEVEN, "deci", "deci"),
        ("mistral", PADDED, "stock", "llama"),
        ("mistral", UNEVEN, "deci", "deci"),
        ("llama", UNEVEN, "mimo", "deci"),
        ("llama", UNEVEN, "anymodel", "deci"),
        ("qwen2", SYMMETRIC, "stock", "qwen2"),
        ("qwen2", PADDED, "stock", "llama"),
        ("qwen3", PADDED, "stock", "qwen3"),
    ],
)
def test_attention_and_head_counts_are_replaced_and_nothing_else(
    family: str, grouping: Grouping, layout: LayoutChoice, architecture: str, tmp_path: Path
) -> None:
    source, folder = converted(tmp_path, family, grouping, layout, head_dim=8)
    parent = write_parent(source, tmp_path / "parent.gguf")
    made = export_gguf(parent, folder, tmp_path / "made.gguf")
    assert (made.architecture, made.kv_heads_per_layer) == (architecture, grouping.group_counts)
    before, after = GGUFReader(parent), GGUFReader(tmp_path / "made.gguf")
    config: dict[str, Any] = dict(config_of(folder))

    own = before.fields["general.architecture"].contents()
    old, new = metadata_bytes(before), metadata_bytes(after)
    renamed = {key.replace(f"{own}.", f"{architecture}."): key for key in old}
    counted = {f"{architecture}.attention.head_count", f"{architecture}.attention.head_count_kv"}
    lengths = {f"{architecture}.attention.key_length", f"{architecture}.attention.value_length"}
    assert new.keys() == renamed.keys() | lengths
    for key in renamed.keys() - counted - {"general.architecture"}:
        assert new[key] == old[renamed[key]], key
    assert after.fields["general.architecture"].contents() == architecture
    assert after.fields[f"{architecture}.attention.head_count"].contents() == config["num_attention_heads"]
    counts = after.fields[f"{architecture}.attention.head_count_kv"].contents()
    assert counts == (list(grouping.group_counts) if grouping is UNEVEN else 3)
    assert {after.fields[key].contents() for key in lengths} == {8}

    stored = stored_tensors(folder)
    assert [tensor.name for tensor in after.tensors] == [tensor.name for tensor in before.tensors]
    replaced = 0
    for mine, theirs in zip(after.tensors, before.tensors, strict=True):
        assert mine.tensor_type == theirs.tensor_type
        assert mine.data_offset % 32 == 0
        if mine.name.split(".")[-2] in PROJECTIONS:
            expected = expected_tensor(mine.name, stored, architecture in ("llama", "deci"), 8)
            assert np.array_equal(mine.data, expected), mine.name
            replaced += 1
        else:
            assert mine.data.tobytes() == theirs.data.tobytes(), mine.name
    assert (made.replaced, made.widened) == ({"F32": replaced}, {})
    assert made.copied == len(before.tensors) - replaced
    assert replaced == 2 * (7 if family == "qwen2" else 4)


@pytest.mark.parametrize("kind", [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q5_1])
def test_types_of_the_parent_are_kept(kind: Type, tmp_path: Path) -> None:
    source, folder = converted(tmp_path, "qwen3", PAIRS, **WIDE)
    parent = write_parent(source, tmp_path / "parent.gguf", lambda name: kind)
    made = export_gguf(parent, folder, tmp_path / "made.gguf", least="Q4_0")
    assert (made.replaced, made.widened) == ({kind.name: 4}, {})
    stored = stored_tensors(folder)
    for tensor in GGUFReader(tmp_path / "made.gguf").tensors:
        if tensor.name.split(".")[-2] in PROJECTIONS:
            assert tensor.tensor_type == kind
            assert tensor.data.tobytes() == encode(expected_tensor(tensor.name, stored, False, 32), kind).tobytes()


@pytest.mark.parametrize("least", ["Q4_0", "Q8_0", "F16"])
def test_what_is_rounded_twice_gets_a_wider_type_and_the_others_stay_raw(least: str, tmp_path: Path) -> None:
    """Q4_K and Q6_K cannot be written: with Q4_0, no wider than Q4_K, Q6_K becomes F16."""
    source, folder = converted(tmp_path, "qwen3", PAIRS, **WIDE)
    kinds = {"attn_q": Type.Q4_K, "attn_v": Type.Q6_K, "attn_k": Type.Q8_0, "ffn_up": Type.Q4_K, "ffn_down": Type.Q6_K}
    parent = write_parent(
        source, tmp_path / "parent.gguf", lambda name: kinds.get(name.split(".")[-2], Type.F32), alignment=64
    )
    made = export_gguf(parent, folder, tmp_path / "made.gguf", least=least)
    assert made.replaced == {"Q4_0": {"F16": 2, "Q8_0": 1}, "Q8_0": {"Q8_0": 3}, "F16": {"F16": 3}}[least] | {"F32": 1}
    assert made.widened == {"Q4_K": 1, "Q6_K": 1} | ({"Q8_0": 1} if least == "F16" else {})
    before, after = ({t.name: t for t in GGUFReader(path).tensors} for path in (parent, tmp_path / "made.gguf"))
    for name in ("blk.0.ffn_up.weight", "blk.0.ffn_down.weight"):
        assert after[name].tensor_type == before[name].tensor_type
        assert after[name].data.tobytes() == before[name].data.tobytes()
    assert all(tensor.data_offset % 64 == 0 for tensor in after.values())
    q = stored_tensors(folder)["model.layers.0.self_attn.q_proj.weight"].numpy()
    assert np.array_equal(after["blk.0.attn_q.weight"].data, encode(q, after["blk.0.attn_q.weight"].tensor_type))


@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q8_0])
@pytest.mark.parametrize("layout", ["stock", "deci"])
def test_what_a_conversion_left_as_it_was_is_copied(kind: Type, layout: LayoutChoice, tmp_path: Path) -> None:
    """Of a model that was read from the file itself: its second layer is not grouped, or none is."""
    _, source = saved(tmp_path, "llama", head_dim=32)
    parent = write_parent(source, tmp_path / "parent.gguf", lambda name: kind)
    own = resolve_model(str(parent)).directory
    labels = [[0, 0, 1, 1, 2, 2] if layout == "deci" else [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    loaded, grouping = load_parent(str(own)), Grouping.from_labels(labels)

    def convert(index: int) -> LayerWeights:
        kept = loaded.layer(index)
        return changed_layer(kept, grouping, index) if layout == "deci" and index == 0 else kept

    write_checkpoint(own, tmp_path / "out", document_for(loaded, grouping), convert, layout=layout)
    made = export_gguf(parent, tmp_path / "out", tmp_path / "made.gguf")
    before, after = ({t.name: t for t in GGUFReader(path).tensors} for path in (parent, tmp_path / "made.gguf"))
    changed = {name for name in before if before[name].data.tobytes() != after[name].data.tobytes()}
    assert changed == ({f"blk.0.{name}.weight" for name in PROJECTIONS} if layout == "deci" else set())
    assert made.copied == len(before) - len(changed)
    assert all(after[name].tensor_type == Type.Q8_0 for name in changed)


def test_rows_without_whole_blocks_become_f16(tmp_path: Path) -> None:
    """Padded, o has rows of 9 x 8 values, which no blocks of 32 fill; the parent's have 8 x 8."""
    grouping = Grouping.from_labels([[0, 1, 2, 0, 1, 2, 0, 1]])
    source, folder = converted(tmp_path, "llama", grouping, heads=8, head_dim=8, layers=1)
    parent = write_parent(source, tmp_path / "parent.gguf", lambda name: Type.Q8_0)
    made = export_gguf(parent, folder, tmp_path / "made.gguf")
    assert (made.replaced, made.widened) == ({"Q8_0": 3, "F16": 1}, {"Q8_0": 1})
    types = {tensor.name: tensor.tensor_type for tensor in GGUFReader(tmp_path / "made.gguf").tensors}
    assert types["blk.0.attn_output.weight"] == Type.F16


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A parent's GGUF file and the converted checkpoint."""
    source, folder = converted(tmp_path, head_dim=8)
    return write_parent(source, tmp_path / "parent.gguf"), folder


def refuses(parent: Path, folder: Path, words: str, out: str = "made.gguf") -> None:
    before = sorted(parent.parent.iterdir()) if parent.parent.is_dir() else []
    with pytest.raises(UserError, match=words):
        export_gguf(parent, folder, parent.parent / out)
    assert before == (sorted(parent.parent.iterdir()) if parent.parent.is_dir() else [])


def test_files_that_are_no_parents(files: tuple[Path, Path], tmp_path: Path) -> None:
    parent, folder = files
    refuses(tmp_path / "absent.gguf", folder, "cannot read .*absent.gguf: No such file")
    refuses(tmp_path, folder, "cannot read")
    data = parent.read_bytes()
    for name, bad in {
        "empty": b"",
        "text": b"GGML" + data[4:],
        "cut": data[: len(data) // 2],
        "short": data[:30],
    }.items():
        (tmp_path / f"{name}.gguf").write_bytes(bad)
        refuses(tmp_path / f"{name}.gguf", folder, "is no GGUF file, or damaged")
    source = tmp_path / "source"
    refuses(write_parent(source, tmp_path / "split.gguf", parts=3), folder, "one of 3 parts.*llama-gguf-split")
    big = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    big.write_header_to_file()
    big.write_kv_data_to_file()
    big.close()
    refuses(tmp_path / "big.gguf", folder, "big-endian")


def test_parents_of_other_models(files: tuple[Path, Path], tmp_path: Path) -> None:
    folder = files[1]
    _, other = saved(tmp_path / "other", "llama", head_dim=8, seed=1)
    refuses(write_parent(other, tmp_path / "seed.gguf"), folder, "is not of the model .* output_norm.weight differs")
    _, longer = saved(tmp_path / "longer", "llama", head_dim=8, layers=3)
    refuses(write_parent(longer, tmp_path / "longer.gguf"), folder, "llama.block_count = 3, .*out has 2")
    _, qwen = saved(tmp_path / "qwen", "qwen3", head_dim=8)
    refuses(write_parent(qwen, tmp_path / "qwen.gguf"), folder, "is a LlamaForCausalLM; .* qwen3 .* Qwen3ForCausalLM")
    edited = tmp_path / "mlp"
    edited.mkdir()
    tensors = stored_tensors(tmp_path / "source")
    tensors["model.layers.1.mlp.down_proj.weight"][0] += 0.01
    save_file(tensors, edited / "model.safetensors")
    for file in (tmp_path / "source").glob("*.json"):
        (edited / file.name).write_bytes(file.read_bytes())
    refuses(write_parent(edited, tmp_path / "mlp.gguf"), folder, "blk.1.ffn_down.weight differs")


def test_architectures_and_layouts_without_a_form(files: tuple[Path, Path], tmp_path: Path) -> None:
    parent, folder = files
    writer = gguf.GGUFWriter(tmp_path / "gemma.gguf", "gemma")
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    refuses(tmp_path / "gemma.gguf", folder, "architecture gemma; GGUF export knows llama, qwen2, qwen3")
    _, ragged = converted(tmp_path / "ragged", "llama", UNEVEN, "ragged")
    refuses(parent, ragged, "layout ragged, .* --layout deci")
    edit_config(ragged, kv_group_heads=[[[0, 0]], [[0, 0]]])
    refuses(parent, ragged, "keys and values that were grouped apart")
    source = tmp_path / "source"
    fused = write_parent(source, tmp_path / "qkv.gguf", renamed={"blk.1.attn_q.weight": "blk.1.attn_qkv.weight"})
    refuses(fused, folder, "stores q, k and v as one tensor, attn_qkv; convert the parent anew")
    other = write_parent(source, tmp_path / "names.gguf", renamed={"blk.1.attn_k.weight": "blk.1.key.weight"})
    refuses(other, folder, "has no tensor blk.1.attn_k.weight")


def test_checkpoint_that_contradicts_its_config(files: tuple[Path, Path]) -> None:
    parent, folder = files
    edit_config(folder, num_key_value_heads=2)
    refuses(parent, folder, r"k_proj.weight has shape \(24, 48\), but config.json says \(16, 48\)")


def test_values_that_float16_has_not(tmp_path: Path) -> None:
    source, folder = converted(tmp_path, head_dim=8)
    tensors = stored_tensors(folder)
    tensors["model.layers.1.self_attn.v_proj.weight"][0, 0] = 1e6
    save_file(tensors, folder / "model.safetensors")
    parent = write_parent(source, tmp_path / "parent.gguf", lambda name: Type.F16)
    refuses(parent, folder, "blk.1.attn_v.weight .* float16 has not")


def test_nothing_is_overwritten_unasked(files: tuple[Path, Path], tmp_path: Path) -> None:
    parent, folder = files
    out = tmp_path / "made.gguf"
    out.write_text("mine")
    refuses(parent, folder, "exists already")
    assert out.read_text() == "mine"
    export_gguf(parent, folder, out, overwrite=True)
    assert out.read_bytes()[:4] == b"GGUF"
    with pytest.raises(UserError, match="is the parent itself"):
        export_gguf(parent, folder, parent, overwrite=True)


def test_without_the_package(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    parent, folder = files
    monkeypatch.setitem(sys.modules, "gguf", None)
    refuses(parent, folder, r"pip install 'gqasearch\[gguf\]'")


def joined(tmp_path: Path) -> tuple[Path, Path]:
    """A model, and its conversion to heads of twice the size."""
    source = save_checkpoint(tiny_model("llama"), tmp_path / "plain")
    write_joined(resolve_model(str(source)), 2, tmp_path / "wide")
    write(load_parent(str(tmp_path / "wide")), tmp_path / "wide", tmp_path / "out", SYMMETRIC, "stock")
    return source, tmp_path / "out"


def with_own_frequencies(parent: Path, path: Path) -> Path:
    """The same file of a parent whose RoPE is scaled, by factors and by a number."""
    file, own = GgufFile(parent), np.full(4, 2.0, dtype=np.float32)
    kept = [
        NewTensor(name, shape_of(tensor), tensor.tensor_type, partial(getattr, tensor, "data"))
        for name, tensor in file.tensors.items()
    ]
    tensors = [NewTensor("rope_freqs.weight", own.shape, Type.F32, lambda: own), *kept]
    write_gguf(path, {**file.metadata, "llama.rope.scaling.type": string("linear")}, tensors, 32)
    return path


@pytest.mark.parametrize("scaled", [False, True])
def test_joined_heads_bring_their_frequencies(tmp_path: Path, scaled: bool) -> None:
    """In place of what the parent says of its own."""
    source, folder = joined(tmp_path)
    parent = write_parent(source, tmp_path / "parent.gguf")
    if scaled:
        parent = with_own_frequencies(parent, tmp_path / "scaled.gguf")
    written = export_gguf(parent, folder, tmp_path / "out.gguf")
    reader = GGUFReader(tmp_path / "out.gguf")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    assert len(stored) == len(reader.tensors) and reader.get_field("llama.rope.scaling.type") is None
    factors = config_of(folder)["rope_parameters"]["short_factor"]
    assert stored["rope_freqs.weight"].data.tolist() == pytest.approx(factors, rel=1e-6)
    sizes = ("attention.key_length", "attention.value_length", "rope.dimension_count")
    assert [reader.fields[f"llama.{name}"].contents() for name in sizes] == [16, 16, 16]
    assert written.copied == len(stored) - 1 - sum(written.replaced.values())


@pytest.mark.parametrize("field", ["long_factor", "attention_factor"])
def test_what_llama_cpp_has_no_form_for_is_refused(tmp_path: Path, field: str) -> None:
    source, folder = joined(tmp_path)
    rope = config_of(folder)["rope_parameters"]
    other = {"long_factor": [2.0] * 8, "attention_factor": 1.2}[field]
    edit_config(folder, rope_parameters={**rope, field: other})
    with pytest.raises(UserError, match="RoPE is another for long texts, or scales scores"):
        export_gguf(write_parent(source, tmp_path / "parent.gguf"), folder, tmp_path / "out.gguf")

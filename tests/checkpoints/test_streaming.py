"""Shards that are written tensor by tensor are those that safetensors writes of a conversion in memory."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gqasearch.checkpoints import merged_by_group, plan_checkpoint, write_checkpoint
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.grouping_document import GroupingDocument, MergeRecord
from gqasearch.merging import MERGES, Merge, make_merge
from gqasearch.models import LayerWeights, ModelSource, Parent, load_parent
from gqasearch.steps import Workspace, materialize
from tests.checkpoints.convert import PADDED, SYMMETRIC, changed_layer, convert, document_for, stored_tensors
from tests.matrix import thinned
from tests.tiny_models import edit_config, save_checkpoint, tiny_model, tiny_parent

INDEX = "model.safetensors.index.json"
WEIGHTS_ONLY = [merge for kind in MERGES.values() if (merge := kind()).needs == "weights"]
WEIGHTS_ONLY.append(make_merge("weighted-mean", {"weight": "key-norm"}))
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "biases": ("llama", {"attention_bias": True}),
    "gqa": ("qwen2", {"heads": 12, "kv_heads": 6}),
    "head norms": ("qwen3", {}),
    "fused qkv": ("phi3", {}),
    "tied embeddings": ("gemma", {"tied": True}),
    "learned positions": ("opt", {"tied": True}),
    "fused and transposed": ("gpt2", {"n_inner": 192}),
}


def saved(tmp_path: Path, case: str, shards: str, dtype: torch.dtype) -> tuple[Parent, Path]:
    family, options = CASES[case]
    folder = save_checkpoint(tiny_model(family, dtype=dtype, **options), tmp_path / "source", max_shard_size=shards)
    return load_parent(str(folder)), folder


def in_memory(parent: Parent, source: Path, grouping: Grouping, target: Path) -> dict[str, bytes]:
    """File name -> what safetensors writes of the source's tensors, all of them and converted in memory."""
    tensors = stored_tensors(source)
    layout = plan_checkpoint(parent.family, parent.config, grouping)
    for index in range(len(grouping)):
        merged = layout.lay_out(changed_layer(parent.layer(index), grouping, index), index)
        changed: dict[str, Tensor] = parent.family.write_layer(merged, index)
        tensors |= {name: tensor.to(tensors[name].dtype) for name, tensor in changed.items()}
    target.mkdir()
    for shard, names in names_by_shard(source).items():
        save_file({name: tensors[name] for name in names}, target / shard, metadata={"format": "pt"})
    return weight_files(target)


def weight_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def names_by_shard(folder: Path) -> dict[str, list[str]]:
    if not (folder / INDEX).is_file():
        return {"model.safetensors": list(stored_tensors(folder))}
    weight_map: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    shards = sorted(set(weight_map.values()))
    return {shard: [name for name in weight_map if weight_map[name] == shard] for shard in shards}


@pytest.mark.parametrize(
    ("case", "shards", "dtype"),
    thinned(CASES, ["one", "four"], [torch.bfloat16, torch.float16, torch.float32]),
    ids=str,
)
def test_files_are_those_of_safetensors(case: str, shards: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """The same bytes, headers included. Of four files, one begins in the middle of a layer."""
    size = sum(p.numel() for p in tiny_model(CASES[case][0], **CASES[case][1]).parameters()) * dtype.itemsize
    parent, source = saved(tmp_path, case, "1GB" if shards == "one" else f"{int(size / 3200)}KB", dtype)
    before = weight_files(source)
    if shards == "four":
        shards_of = {name: shard for shard, names in names_by_shard(source).items() for name in names}
        layers = [parent.family.layer_tensors(layer, parent.config).values() for layer in range(2)]
        assert len(before) == 4 and any(len({shards_of[name] for name in names}) > 1 for names in layers)
    convert(parent, source, tmp_path / "out", SYMMETRIC)
    assert weight_files(tmp_path / "out") == in_memory(parent, source, SYMMETRIC, tmp_path / "expected")
    assert weight_files(source) == before


def test_every_tensor_in_a_shard_of_its_own_and_in_no_order(tmp_path: Path) -> None:
    _, source = saved(tmp_path, "gqa", "1GB", torch.bfloat16)
    tensors = stored_tensors(source)
    (source / "model.safetensors").unlink()
    weight_map = {name: f"part-{index}.safetensors" for index, name in enumerate(sorted(tensors)[::-1])}
    for name, shard in weight_map.items():
        save_file({name: tensors[name]}, source / shard, metadata={"format": "pt"})
    (source / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    parent = load_parent(str(source))
    convert(parent, source, tmp_path / "out", PADDED)
    assert weight_files(tmp_path / "out") == in_memory(parent, source, PADDED, tmp_path / "expected")


def test_what_a_source_says_of_itself_is_kept_and_its_framework_named(tmp_path: Path) -> None:
    parent, source = saved(tmp_path, "llama", "1GB", torch.float32)
    save_file(stored_tensors(source), source / "model.safetensors", metadata={"made by": "hand, not “tool”"})
    convert(parent, source, tmp_path / "out", SYMMETRIC)
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"made by": "hand, not “tool”", "format": "pt"}


@pytest.mark.parametrize("error", [OSError(errno.EXDEV, "other file system"), OSError(errno.ENOSYS, "old kernel")])
def test_where_the_kernel_does_not_copy(error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise error

    parent, source = saved(tmp_path, "llama", "20KB", torch.float32)
    convert(parent, source, tmp_path / "kernel", SYMMETRIC)
    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    monkeypatch.setattr("gqasearch.checkpoints.shards.BUFFER", 1000)
    convert(parent, source, tmp_path / "hand", SYMMETRIC)
    assert weight_files(tmp_path / "hand") == weight_files(tmp_path / "kernel")


def test_source_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    parent, source = saved(tmp_path, "llama", "1GB", torch.bfloat16)

    def merged(index: int) -> LayerWeights:
        if index == 1:  # the last that is converted: what is copied after it is gone
            os.truncate(source / "model.safetensors", 5000)
        return changed_layer(parent.layer(index), SYMMETRIC, index)

    with pytest.raises(UserError, match=r"model.safetensors ended within tensor model.*changed while it was read"):
        write_checkpoint(source, tmp_path / "out", document_for(parent, SYMMETRIC), merged)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("changes", [{"num_attention_heads": 12, "head_dim": 8}, {"hidden_size": 96}, {"head_dim": 12}])
def test_config_that_does_not_fit_the_weights(changes: dict[str, int], tmp_path: Path) -> None:
    parent, source = saved(tmp_path, "llama", "1GB", torch.float32)
    edit_config(source, num_key_value_heads=6, **changes)
    given = ModelSource(source, "").geometry
    document = document_for(parent, SYMMETRIC)
    model = {"num_attention_heads": given.num_attention_heads, "head_dim": given.head_dim}
    document = replace(document, model=replace(document.model, **model))
    with pytest.raises(UserError, match=r"is stored as .*48.*, config.json makes it .* more tensors do not fit"):
        write_checkpoint(source, tmp_path / "out", document, parent.layer)


# Merges that need weights alone


@pytest.mark.parametrize(
    ("case", "merge", "dtype"), thinned(CASES, WEIGHTS_ONLY, [torch.float32, torch.bfloat16, torch.float64]), ids=str
)
def test_a_layer_merged_by_group_is_that_merged_whole(case: str, merge: Merge, dtype: torch.dtype) -> None:
    family, options = CASES[case]
    weights = tiny_parent(family, **options).layer(0).to(dtype)
    if family == "gpt2":  # views of what is stored transposed: norms would add up in another order
        weights = replace(weights, k=weights.k.contiguous(), v=weights.v.contiguous())
    wide = torch.promote_types(dtype, torch.float32)
    for layer in (PADDED.layers[0], SYMMETRIC.layers[1], LayerGrouping.singletons(6), LayerGrouping.neighbours(6, 1)):
        whole = merge.for_layer(weights.to(wide)).merge(layer).to(dtype)
        by_group = merged_by_group(merge, weights, layer)
        for role in ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm"):
            expected, got = getattr(whole, role), getattr(by_group, role)
            assert (got is None) == (expected is None)
            # Two ways to add up the same numbers: not always in one order.
            torch.testing.assert_close(got, expected, msg=role)


@pytest.mark.parametrize("merge", ["mean", "mean-renorm", "medoid", "weighted-mean"])
def test_model_is_not_loaded_where_weights_are_enough(
    merge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, source = saved(tmp_path, "biases", "20KB", torch.bfloat16)
    parameters = {"weight": "key-norm"} if merge == "weighted-mean" else {}
    document = named(document_for(parent, SYMMETRIC), MergeRecord(merge, parameters))
    rule = make_merge(merge, parameters)

    def merged(index: int) -> LayerWeights:
        return rule.for_layer(parent.layer(index)).merge(SYMMETRIC.layers[index])

    write_checkpoint(source, tmp_path / "expected", document, merged)
    monkeypatch.setattr(
        "gqasearch.steps.workspace.load_parent", lambda *args, **kwargs: pytest.fail("the model is loaded")
    )
    materialize(Workspace(build_config({"model": str(source)})), document, tmp_path / "out")
    for path in (tmp_path / "expected").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes(), path.name


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    parent, source = saved(tmp_path, "llama", "1GB", torch.bfloat16)
    tensors = stored_tensors(source)
    tensors["model.layers.1.self_attn.v_proj.weight"][3, 5] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    document = named(document_for(parent, SYMMETRIC), MergeRecord("mean"), fingerprint="")
    with pytest.raises(UserError, match=r"tensor model.layers.1.self_attn.v_proj.weight holds NaN"):
        materialize(Workspace(build_config({"model": str(source)})), document, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def named(document: GroupingDocument, merge: MergeRecord, **model: str) -> GroupingDocument:
    return replace(document, merge=merge, model=replace(document.model, **model))

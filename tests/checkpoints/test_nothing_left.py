"""A conversion that cannot be done, or is interrupted, leaves the source as it was and nothing beside it."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors.torch import save_file

from gqasearch.checkpoints import shards, write_checkpoint
from gqasearch.errors import UserError
from gqasearch.files import aside_of
from gqasearch.models import LayerWeights
from tests.checkpoints.convert import PADDED, SYMMETRIC, changed_layer, convert, document_for, stored_tensors
from tests.checkpoints.test_stock import assert_same, saved


def _fail_on_second_copy(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    copy, calls = shards._copy_some, []

    def failing(source: BinaryIO, start: int, target: BinaryIO, at: int, count: int) -> int:
        calls.append(start)
        if len(calls) == 2:
            target.write(b"half a tensor")
            raise error
        return copy(source, start, target, at, count)

    monkeypatch.setattr(shards, "_copy_some", failing)


def test_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, folder = saved(tmp_path, "llama", shards="20KB")
    _fail_on_second_copy(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(UserError, match=r"cannot write checkpoint .*No space left on device"):
        convert(parent, folder, tmp_path / "out", PADDED)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_any_interruption_leaves_nothing(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, folder = saved(tmp_path, "llama", shards="20KB")
    _fail_on_second_copy(monkeypatch, error)
    with pytest.raises(type(error)):
        convert(parent, folder, tmp_path / "out", PADDED)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("the only copy")
    with pytest.raises(UserError, match="exists already and is not an empty folder"):
        convert(parent, folder, tmp_path / "out", PADDED)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="exists already"):
        convert(parent, folder, folder, PADDED)


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    (tmp_path / "out").mkdir()
    convert(parent, folder, tmp_path / "out", PADDED)
    assert_same(parent, tmp_path / "out", PADDED)


def test_leftovers_of_a_killed_process_are_removed_but_not_of_a_living_one(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    here = aside_of(tmp_path / "out").name.rpartition("-")[0]
    dead, living = tmp_path / f"{here}-4194305", tmp_path / f"{here}-1"  # above the largest id; init
    elsewhere, forgotten = tmp_path / ".out.partial-0123abcd-4194305", tmp_path / ".out.partial-0123abcd-4194306"
    for left in (dead, living, elsewhere, forgotten):
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"part")
    for path in (forgotten / "model.safetensors", forgotten):
        os.utime(path, (0, 0))
    convert(parent, folder, tmp_path / "out", SYMMETRIC)
    assert {path.name for path in tmp_path.iterdir()} == {living.name, elsewhere.name, "out", folder.name}


def test_grouping_of_another_model_is_refused(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    document = document_for(parent, SYMMETRIC)
    other = replace(document, model=replace(document.model, head_dim=16))
    with pytest.raises(UserError, match="head_dim is 16 in the grouping, 8 in the model"):
        write_checkpoint(folder, tmp_path / "out", other, parent.layer)


def test_layer_merged_to_another_number_of_heads_is_a_bug(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    with pytest.raises(ValueError, match=r"layer 0 was merged to \(6, 6\) key and value heads, not \(3, 3\)"):
        write_checkpoint(folder, tmp_path / "out", document_for(parent, SYMMETRIC), parent.layer)


def test_values_that_overflow_the_stored_dtype_are_refused(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", dtype=torch.float16)

    def merged(index: int) -> LayerWeights:
        layer = changed_layer(parent.layer(index), SYMMETRIC, index)
        return replace(layer, o=layer.o * 1e7)

    with pytest.raises(UserError, match=r"layers.0.self_attn.o_proj.weight .* not finite in torch.float16"):
        write_checkpoint(folder, tmp_path / "out", document_for(parent, SYMMETRIC), merged)
    assert not (tmp_path / "out").exists()


def test_quantised_source_is_refused(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    tensors = stored_tensors(folder)
    name = "model.layers.1.self_attn.k_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"layers.1.self_attn.k_proj.weight is stored as I8"):
        convert(parent, folder, tmp_path / "int8", SYMMETRIC)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"has no tensor model.layers.1.self_attn.k_proj.weight"):
        convert(parent, folder, tmp_path / "gptq", SYMMETRIC)


def test_index_that_points_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", shards="20KB")
    path = folder / "model.safetensors.index.json"
    first = min(folder.glob("*.safetensors")).rename(tmp_path / "elsewhere.safetensors")
    shards = [shard.name for shard in folder.glob("*.safetensors")]
    names = set(json.loads(path.read_text())["weight_map"].values()) - set(shards)
    path.write_text(path.read_text().replace(names.pop(), f"../{first.name}"))
    with pytest.raises(UserError, match="is no plain file name"):
        convert(parent, folder, tmp_path / "out", SYMMETRIC)

"""``gqasearch export-gguf``: what it prints, and one message for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader

from gqasearch.grouping import Grouping
from tests.checkpoints.convert import SYMMETRIC
from tests.checkpoints.gguf_parent import write_parent
from tests.checkpoints.uneven import saved, write
from tests.cli.test_cli import call, refused


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a parent's GGUF file and, as in a run, the checkpoint in ``model``."""
    folder = tmp_path_factory.mktemp("run")
    parent, source = saved(folder, "llama", head_dim=8)
    write(parent, source, folder / "model", SYMMETRIC, "stock")
    write_parent(source, folder / "parent.gguf", lambda name: Type.F32 if "ffn" in name else Type.F16)
    return folder


@pytest.mark.parametrize("checkpoint", ["", "model"])
def test_words_and_json(run: Path, checkpoint: str, tmp_path: Path) -> None:
    common = ["export-gguf", str(run / "parent.gguf"), "--checkpoint", str(run / checkpoint)]
    out = tmp_path / "made.gguf"
    result = call(*common, "--output", str(out))
    assert result.exit_code == 0, result.output
    assert (
        result.stdout
        == f"{out}: architecture llama, 3 KV heads; attention in F16 (8 tensors), 13 other tensors copied\n"
    )
    assert GGUFReader(out).fields["llama.attention.head_count_kv"].contents() == 3
    refused(call(*common, "--output", str(out)), "exists already")
    result = call(*common, "-o", str(out), "--overwrite", "--json")
    assert json.loads(result.stdout) == {
        "output": str(out),
        "architecture": "llama",
        "kv_heads_per_layer": [3, 3],
        "replaced": {"F16": 8},
        "widened": {},
        "copied": 13,
    }
    assert call(*common, "-o", str(out), "--overwrite", "-q").stdout == ""


def test_what_was_widened_is_said(tmp_path: Path) -> None:
    parent, source = saved(tmp_path, "qwen3", heads=8, head_dim=32, layers=1)  # rows of 256, a block of Q4_K
    write(parent, source, tmp_path / "model", Grouping.from_labels([[0, 1, 2, 3, 3, 2, 1, 0]]), "stock")
    file = write_parent(source, tmp_path / "p.gguf", lambda name: Type.Q4_K if "attn_v" in name else Type.F32)
    result = call("export-gguf", str(file), "--checkpoint", str(tmp_path), "-o", str(tmp_path / "made.gguf"))
    assert "attention in F32 (3 tensors), Q8_0 (1 tensors)" in result.stdout
    assert result.stdout.endswith("in place of Q4_K (1 tensors), as it is rounded a second time\n")


def test_mistakes(run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "made.gguf")
    parent = str(run / "parent.gguf")
    refused(call("export-gguf", parent, "--checkpoint", str(tmp_path / "none"), "-o", out), "no such checkpoint folder")
    refused(call("export-gguf", str(tmp_path / "none"), "--checkpoint", str(run), "-o", out), "cannot read")
    refused(call("export-gguf", parent, "--checkpoint", str(run), "-o", str(tmp_path / "x" / "y.gguf")), "cannot write")
    refused(call("export-gguf", parent, "--checkpoint", str(run), "-o", out, "--least", "Q3"), "choose from Q4_0, Q8_0")
    assert list(tmp_path.iterdir()) == []

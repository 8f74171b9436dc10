"""Whole runs with ``kv_bits``: the checkpoint's cache can be rounded at less cost, and it is the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.grouping_document import read_grouping, write_grouping
from gqasearch.models import load_parent
from gqasearch.run import RunFolder, run
from gqasearch.run.origin import materialize_config
from gqasearch.steps import Workspace
from gqasearch.steps.convert import materialize
from tests.basis.test_basis import hard
from tests.samples import random_blocks
from tests.tiny_encoders import save_encoder, tiny_encoder
from tests.tiny_models import VOCAB_SIZE, save_checkpoint, tiny_model, tiny_parent

SMALL = {"population": 8, "offspring": 8, "generations": 2}


@pytest.fixture
def burdened(tmp_path: Path) -> str:
    """A checkpoint one of whose frequencies and values are 30 times as large as they have to be."""
    parent = tiny_parent("llama")
    for index in range(2):
        hard(parent, index)
    return str(save_checkpoint(parent.model, tmp_path / "burdened"))


def finished(settings: dict[str, Any], folder: Path, **changes: Any) -> RunFolder:
    small = {"method_parameters": SMALL, "baseline": False}
    return run(build_config({**settings, **small, **changes}), folder, report=False)


def rounded(folder: RunFolder) -> dict[str, float]:
    return {row["model"]: row["kl"] for row in json.loads(folder.metrics.read_text())["rounded"]}


def test_without_any_grouping(settings: dict[str, Any], burdened: str, tmp_path: Path) -> None:
    folder = finished({**settings, "model": burdened}, tmp_path / "run", kv_ratio=1.0, kv_bits="4")
    found, metrics = rounded(folder), json.loads(folder.metrics.read_text())
    assert found["converted"] < 0.2 * found["parent"]
    assert metrics["results"]["converted"]["kl"] < 1e-6 and list(metrics["results"]) == ["converted"]
    ids = random_blocks(VOCAB_SIZE).ids
    with torch.no_grad():
        written = AutoModelForCausalLM.from_pretrained(folder.model)(ids).logits
        assert float((written - load_parent(burdened).model(ids).logits).abs().max()) < 1e-4

    card = " ".join((folder.model / "README.md").read_text().split())
    assert "the basis in which a cache in the format `4` loses least" in card

    document = read_grouping(folder.grouping)  # says all that it takes to write the checkpoint again
    assert document.kv_bits == "4"
    write_grouping(tmp_path / "again.json", document)
    assert (tmp_path / "again.json").read_bytes() == folder.grouping.read_bytes()
    work = Workspace(materialize_config(folder.grouping, {}))
    materialize(work, document, tmp_path / "again")
    one, other = (load_file(path / "model.safetensors") for path in (folder.model, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("changes", [{"refine": "outputs"}, {"refine": "none", "join": 2}, {"layout": "ragged"}])
def test_on_top_of_shared_heads(
    settings: dict[str, Any], burdened: str, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """The same grouping with and without: nothing changes but what rounding does."""
    few = {"refine_parameters": {"steps": 5, "rounded_steps": 0}} if "refine" not in changes else {}
    given = {**settings, "model": burdened, "kv_ratio": 0.5 if "join" not in changes else 2 / 3, **changes, **few}
    plain, folder = (finished(given, tmp_path / name, kv_bits=kv) for name, kv in (("plain", None), ("basis", "2")))
    one, other = (json.loads(made.metrics.read_text())["results"]["converted"] for made in (plain, folder))
    assert other["kl"] == pytest.approx(one["kl"], rel=1e-3)
    assert other["kv_bytes_per_token"] == one["kv_bytes_per_token"]
    assert rounded(folder)["converted"] < rounded(folder)["parent"]


def test_the_command_line_tells_both_caches(settings: dict[str, Any], tmp_path: Path) -> None:
    tokens = ["--calibration-tokens", "600", "--evaluation-tokens", "300", "--block-length", "32", "--no-baseline"]
    given = ["--model", settings["model"], "--calibration-text", settings["calibration_text"], *tokens]
    out = ["--kv-ratio", "1", "--kv-bits", "k8v4", "--method", "neighbour", "--output-dir", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["search", *given, *out], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line.split()[3:4] == ["k8v4"]]
    assert [row[1] for row in rows] == ["parent", "converted"] and "as stored" in result.stdout
    assert "of the KV cache's bytes, k8v4" in result.stdout


def test_refusals(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"q4_0 takes heads whose size is a multiple of 32; this model's is 8"):
        finished(settings, tmp_path / "run", kv_bits="q4_0")
    with pytest.raises(UserError, match=r"kv_bits.*unknown cache format 'q4_9'"):
        build_config({**settings, "kv_bits": "q4_9"})
    encoder = str(save_encoder(tiny_encoder("bert"), tmp_path / "encoder"))
    with pytest.raises(UserError, match=r"--kv-bits 4: .* is an encoder, which caches nothing"):
        finished({**settings, "model": encoder}, tmp_path / "run", kv_bits="4")
    falcon = str(save_checkpoint(tiny_model("falcon"), tmp_path / "falcon"))
    with pytest.raises(UserError, match="FalconForCausalLM attends by code of its own"):
        finished({**settings, "model": falcon}, tmp_path / "run", kv_bits="4")
    assert not (tmp_path / "run").exists()

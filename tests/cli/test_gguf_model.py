"""A GGUF file wherever a model is named: searched, converted, measured, and exported to a GGUF file again."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
from gguf import GGMLQuantizationType as Type

from tests.checkpoints.gguf_parent import write_parent
from tests.checkpoints.uneven import saved
from tests.cli.test_cli import call, refused
from tests.samples import text_file

SMALL = ("--calibration-tokens", "200", "--evaluation-tokens", "100", "--set", "block_length=32", "--refine", "outputs")


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0])
def test_from_file_to_file(kind: Type, tmp_path: Path) -> None:
    _, source = saved(tmp_path, "llama", head_dim=32)
    file = write_parent(source, tmp_path / "model.gguf", lambda name: kind)
    text = text_file(tmp_path)
    run = tmp_path / "run"
    options = ("--model", str(file), "--calibration-text", str(text), *SMALL)
    result = call("search", *options, "--kv-ratio", "0.5", "--output-dir", str(run))
    assert result.exit_code == 0, result.output + result.stderr
    record = json.loads((run / "grouping.json").read_text())["model"]
    assert record["id"] == str(file) and record["architecture"] == "LlamaForCausalLM"
    assert json.loads((run / "model" / "config.json").read_text())["dtype"] == "float16"
    out = tmp_path / "converted.gguf"
    assert call("export-gguf", str(file), "--checkpoint", str(run), "-o", str(out), "-q").exit_code == 0
    assert gguf.GGUFReader(out).fields["llama.attention.head_count_kv"].contents() == 3
    measured = ("--calibration-text", str(text), "--evaluation-tokens", "100", "--block-length", "32", "--json")
    again = call("evaluate", str(out), "--parent", str(file), *measured)
    assert again.exit_code == 0, again.output + again.stderr
    direct = call("evaluate", str(run), *measured)
    kl = [json.loads(result.stdout)["results"]["converted"]["kl"] for result in (again, direct)]
    assert kl[0] == pytest.approx(kl[1], rel=0.02)  # rounded once more where the file is quantised
    rounded = call("evaluate", str(file), "--kv-bits", "8", *measured)
    assert rounded.exit_code == 0, rounded.output + rounded.stderr
    shown = call("validate", str(run / "grouping.json"), "--model", str(file))
    assert shown.exit_code == 0, shown.output + shown.stderr


def test_a_folder_of_gguf_files_is_told_how(tmp_path: Path) -> None:
    _, source = saved(tmp_path, "llama")
    (tmp_path / "only").mkdir()
    write_parent(source, tmp_path / "only" / "model.gguf")
    refused(call("search", "--model", str(tmp_path / "only")), "give the file itself (--model")

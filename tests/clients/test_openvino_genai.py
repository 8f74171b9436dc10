"""OpenVINO GenAI on CPUs: layers with their own numbers of KV heads, as transformers runs them, and GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from gqasearch.checkpoints import export_gguf
from tests.checkpoints.gguf_parent import write_parent
from tests.clients.cases import STOCK, Case, difference, make_case, make_separate_case
from tests.clients.client import Client
from tests.clients.summary import Record

OPENVINO = Client("openvino_genai", "OpenVINO GenAI")
MODELS = {
    "embedded": (*STOCK, "deci", "ragged", "mimo"),
    "mistral": (*STOCK, "deci", "ragged", "openelm"),
    "qwen2": STOCK,
    "qwen3": (*STOCK, "ragged"),
}


@pytest.mark.parametrize("model", MODELS)
def test_layouts(model: str, tmp_path: Path, record_property: Any) -> None:
    OPENVINO.require()
    case = make_case(model, MODELS[model], tmp_path)
    requests = [
        converted.request(target=str(tmp_path / f"{layout}-openvino"), trust=layout in ("deci", "ragged", "openelm"))
        for layout, converted in case.converted.items()
    ]
    answer = OPENVINO.run("run.py", requests, tmp_path)
    for (layout, converted), result in zip(case.converted.items(), answer.result, strict=True):
        largest = difference(result, converted)
        assert result["cached_heads"] == list(converted.grouping.group_counts)
        record = Record(OPENVINO.title, result["version"], layout, model, largest, kv_bytes=True)
        record.write(record_property)


def test_keys_and_values_that_were_grouped_apart(tmp_path: Path, record_property: Any) -> None:
    OPENVINO.require()
    converted = make_separate_case("mistral", tmp_path)
    request = converted.request(target=str(tmp_path / "openvino"), trust=True)
    (result,) = OPENVINO.run("run.py", [request], tmp_path).result
    largest = difference(result, converted)
    keys, values = list(converted.grouping.group_counts[::2]), list(converted.grouping.group_counts[1::2])
    assert keys != values
    assert (result["cached_heads"], result["cached_values"]) == (keys, values)
    record = Record(OPENVINO.title, result["version"], "ragged", "keys and values apart", largest, kv_bytes=True)
    record.write(record_property)


def test_gguf_files(tmp_path: Path) -> None:
    """It takes them in F16 and quantised; so the weights are rounded, and the first token alone has to be the same."""
    OPENVINO.require()
    case = make_case("mistral", (*STOCK, "deci"), tmp_path)
    files = _gguf_files(case, tmp_path)
    requests = [case.converted[layout].request(path, target="") for layout, path in files.items()]
    *stock, deci = OPENVINO.run("run.py", requests, tmp_path).result
    assert "Unsupported model architecture 'deci'" in deci["refused"]
    for layout, result in zip(STOCK, stock, strict=True):
        converted = case.converted[layout]
        assert float(np.abs(np.array(result["log_probs"]) - converted.log_probs).max()) < 0.02
        assert result["greedy"] == converted.greedy
        assert result["cached_heads"] == list(converted.grouping.group_counts)


def _gguf_files(case: Case, folder: Path) -> dict[str, Path]:
    parent = write_parent(case.source, folder / "parent.gguf", lambda _: gguf.GGMLQuantizationType.F16)
    files = {}
    for layout in case.converted:
        files[layout] = folder / f"{layout}-gguf" / "model.gguf"
        files[layout].parent.mkdir()
        export_gguf(parent, case.converted[layout].folder, files[layout])
    return files

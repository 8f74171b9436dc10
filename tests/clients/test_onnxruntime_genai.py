"""ONNX Runtime GenAI: its model builder takes the stock layouts as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.cases import STOCK, difference, make_case
from tests.clients.client import Client
from tests.clients.summary import Record

GENAI = Client("onnxruntime_genai", "ONNX Runtime GenAI")


@pytest.mark.parametrize("model", ["embedded", "mistral", "qwen2", "qwen3"])
def test_layouts(model: str, tmp_path: Path, record_property: Any) -> None:
    GENAI.require()
    case = make_case(model, STOCK, tmp_path)
    requests = [
        converted.request(target=str(tmp_path / f"{layout}-onnx")) for layout, converted in case.converted.items()
    ]
    answer = GENAI.run("run.py", requests, tmp_path)
    for (layout, converted), result in zip(case.converted.items(), answer.result, strict=True):
        largest = difference(result, converted)
        assert result["cached_heads"] == list(converted.grouping.group_counts)
        Record(GENAI.title, result["version"], layout, model, largest, kv_bytes=True).write(record_property)

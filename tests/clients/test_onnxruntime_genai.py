"""ONNX Runtime GenAI: its model builder takes the stock layouts as they are; ``deci`` with a few lines more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.cases import STOCK, difference, make_case
from tests.clients.client import Client
from tests.clients.summary import Record

GENAI = Client("onnxruntime_genai", "ONNX Runtime GenAI")


MODELS = {"embedded": (*STOCK, "deci"), "mistral": (*STOCK, "deci"), "qwen2": STOCK, "qwen3": STOCK}


@pytest.mark.parametrize("model", MODELS)
def test_layouts(model: str, tmp_path: Path, record_property: Any) -> None:
    GENAI.require()
    case = make_case(model, MODELS[model], tmp_path)
    requests = [
        converted.request(target=str(tmp_path / f"{layout}-onnx"), layout=layout)
        for layout, converted in case.converted.items()
    ]
    answer = GENAI.run("run.py", requests, tmp_path)
    for (layout, converted), result in zip(case.converted.items(), answer.result, strict=True):
        largest = difference(result, converted)
        assert result["cached_heads"] == list(converted.grouping.group_counts)
        note = "by tests/clients/onnxruntime_genai/build_deci.py" if layout == "deci" else ""
        record = Record(GENAI.title, result["version"], layout, model, largest, kv_bytes=True, note=note)
        record.write(record_property)

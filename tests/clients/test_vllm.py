"""vLLM on CPUs: stock layouts as they are, DeciLM through vLLM's own class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.cases import STOCK, difference, make_case
from tests.clients.client import Client
from tests.clients.summary import Record

VLLM = Client("vllm", "vLLM")
MODELS = {"llama": (*STOCK, "deci", "ragged"), "qwen2": STOCK, "qwen3": STOCK}


@pytest.mark.parametrize(
    ("model", "layout"), [(model, layout) for model, layouts in MODELS.items() for layout in layouts]
)
def test_layouts(model: str, layout: str, tmp_path: Path, record_property: Any) -> None:
    VLLM.require()
    case = make_case(model, (layout,), tmp_path)
    converted = case.converted[layout]
    answer = VLLM.run("run.py", converted.request(trust=layout not in STOCK), tmp_path, timeout=580)
    largest = difference(answer.result, converted)
    Record(VLLM.title, answer.result["version"], layout, model, largest).write(record_property)

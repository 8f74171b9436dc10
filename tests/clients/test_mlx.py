"""MLX-LM on CPUs: the stock layouts, and layers that differ in their number of KV heads without remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.cases import STOCK, difference, make_case
from tests.clients.client import Client
from tests.clients.summary import Record

MLX = Client("mlx", "MLX-LM")
UNEVEN = ("mimo", "openelm")
MODELS = {"embedded": (*STOCK, *UNEVEN), "mistral": (*STOCK, *UNEVEN), "qwen2": STOCK, "qwen3": STOCK}


@pytest.mark.parametrize("model", MODELS)
def test_layouts(model: str, tmp_path: Path, record_property: Any) -> None:
    MLX.require()
    case = make_case(model, MODELS[model], tmp_path)
    answer = MLX.run("run.py", [converted.request() for converted in case.converted.values()], tmp_path)
    for (layout, converted), result in zip(case.converted.items(), answer.result, strict=True):
        print(layout, result.get("refused"))
        if "refused" in result: continue
        largest = difference(result, converted)
        assert result["cached_heads"] == list(converted.grouping.group_counts)
        Record(MLX.title, result["version"], layout, model, largest, kv_bytes=True).write(record_property)
        print(layout, largest)

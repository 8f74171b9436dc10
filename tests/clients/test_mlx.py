"""MLX-LM on CPUs: the stock layouts, and layers that differ in their number of KV heads without remote code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.clients.cases import STOCK, difference, make_case, make_joined_case
from tests.clients.client import Client
from tests.clients.summary import Record

MLX = Client("mlx", "MLX-LM")
WITHOUT_CODE = ("mimo", "openelm")
MODELS = {
    "embedded": (*STOCK, *WITHOUT_CODE, "deci", "ragged", "anymodel"),
    "mistral": (*STOCK, *WITHOUT_CODE),
    "qwen2": STOCK,
    "qwen3": STOCK,
}
REFUSED = {
    # Its Qwen2 takes hidden size / heads for the size of a head, where config.json says head_dim.
    ("qwen2", "stock-padded"): r"ValueError: Expected shape \(189, 192\) but received shape \(288, 192\)",
    ("embedded", "deci"): "ValueError: Model type deci not supported",
    ("embedded", "anymodel"): r"ValueError: Expected shape \(\d+, 192\) but received shape \(\d+, 192\)",
    ("embedded", "ragged"): "ValueError: Model type ragged_llama not supported",
}


@pytest.mark.parametrize("model", MODELS)
def test_layouts(model: str, tmp_path: Path, record_property: Any) -> None:
    MLX.require()
    case = make_case(model, MODELS[model], tmp_path)
    answer = MLX.run("run.py", [converted.request() for converted in case.converted.values()], tmp_path)
    for (layout, converted), result in zip(case.converted.items(), answer.result, strict=True):
        if (reason := REFUSED.get((model, layout))) is not None:
            assert re.match(reason, result["refused"])
            Record(MLX.title, result["version"], layout, model, refused=f"{model}: {reason}").write(record_property)
            continue
        largest = difference(result, converted)
        assert result["cached_heads"] == list(converted.grouping.group_counts)
        Record(MLX.title, result["version"], layout, model, largest, kv_bytes=True).write(record_property)


def test_joined_heads(tmp_path: Path, record_property: Any) -> None:
    """Wide heads whose RoPE has every frequency twice."""
    MLX.require()
    case, _ = make_joined_case(STOCK, tmp_path)
    answer = MLX.run("run.py", [converted.request() for converted in case.converted.values()], tmp_path)
    for converted, result in zip(case.converted.values(), answer.result, strict=True):
        largest = difference(result, converted)
        record = Record(MLX.title, result["version"], converted.layout, case.model, largest, kv_bytes=True)
        record.write(record_property)

"""transformers 4: stock layouts, whose config.json it must read as transformers 5 does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.cases import STOCK, difference, make_case
from tests.clients.client import Client
from tests.clients.summary import Record

TRANSFORMERS4 = Client("transformers4", "transformers 4")


@pytest.mark.parametrize("model", ["embedded", "mistral", "qwen2", "qwen3"])
def test_layouts(model: str, tmp_path: Path, record_property: Any) -> None:
    TRANSFORMERS4.require()
    case = make_case(model, STOCK, tmp_path)
    answer = TRANSFORMERS4.run("run.py", [converted.request() for converted in case.converted.values()], tmp_path)
    for (layout, converted), result in zip(case.converted.items(), answer.result, strict=True):
        largest = difference(result, converted)
        assert result["cached_heads"] == list(converted.grouping.group_counts)
        record = Record(TRANSFORMERS4.title, result["version"], layout, model, largest, kv_bytes=True)
        record.write(record_property)

"""CTranslate2: its converter takes the stock layouts as they are."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.clients.cases import STOCK, difference, make_case, make_joined_case
from tests.clients.client import Client
from tests.clients.summary import Record
from tests.matrix import sampled

CTRANSLATE2 = Client("ctranslate2", "CTranslate2", in_suite=True)
# The Qwen2 loader ignores head_dim.
REFUSED = {
    ("stock-padded", "qwen2"): r"axis 2 has dimension \d+ but expected \d+",
    ("deci", "embedded"): "No conversion is registered for the model configuration DeciLMConfig",
    ("mimo", "embedded"): "No conversion is registered for the model configuration MiMoV2FlashConfig",
    ("openelm", "embedded"): "No conversion is registered for the model configuration OpenELMConfig",
    ("anymodel", "embedded"): "No conversion is registered for the model configuration RaggedMistralConfig",
    ("ragged", "embedded"): "No conversion is registered for the model configuration RaggedLlamaConfig",
}
MODELS = {
    "embedded": (*STOCK, *(layout for layout, _ in REFUSED if layout not in STOCK)),
    "mistral": STOCK,
    "qwen2": STOCK,
    "qwen3": STOCK,
}


@pytest.mark.parametrize("model", sampled(MODELS, ["embedded"]))
def test_layouts(model: str, tmp_path: Path, record_property: Any) -> None:
    CTRANSLATE2.require()
    case = make_case(model, MODELS[model], tmp_path)
    requests = [
        converted.request(target=str(tmp_path / f"{layout}-ct2"), trust=layout not in STOCK)
        for layout, converted in case.converted.items()
    ]
    answer = CTRANSLATE2.run("run.py", requests, tmp_path)
    for (layout, converted), result in zip(case.converted.items(), answer.result, strict=True):
        record = Record(CTRANSLATE2.title, result["version"], layout, model)
        if (reason := REFUSED.get((layout, model))) is not None:
            assert re.match(reason, result["refused"])
            replace(record, refused=f"{model}: {result['refused']}").write(record_property)
        else:
            largest = difference(result, converted)
            replace(record, difference=largest, note=result["note"]).write(record_property)


def test_joined_heads_are_refused(tmp_path: Path, record_property: Any) -> None:
    """Its converter takes a Mistral's longrope for known and leaves the factors out; --target ctranslate2 says so."""
    CTRANSLATE2.require()
    case, _ = make_joined_case(("stock-symmetric",), tmp_path)
    converted = case.converted["stock-symmetric"]
    request = converted.request(target=str(tmp_path / "ct2"), trust=False)
    result = CTRANSLATE2.run("run.py", [request], tmp_path).result[0]
    assert re.match(r"Some required model attributes are not set", result["refused"])
    assert "rotary_scaling_long_factor" in result["refused"]
    refused = f"{case.model}: {result['refused'].splitlines()[0]}"
    Record(CTRANSLATE2.title, result["version"], "stock-symmetric", case.model, refused=refused).write(record_property)

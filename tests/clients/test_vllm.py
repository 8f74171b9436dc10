"""vLLM on CPUs: stock layouts as they are, and DeciLM through vLLM's own class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.clients.cases import STOCK, Converted, difference, make_case, make_joined_case
from tests.clients.client import Client, ClientError
from tests.clients.summary import Record

VLLM = Client("vllm", "vLLM")
MODELS = {"llama": (*STOCK, "deci", "ragged", "mimo", "openelm"), "qwen2": STOCK, "qwen3": STOCK, "phi": STOCK}
CASES = [(model, layout) for model, layouts in MODELS.items() for layout in layouts]
REFUSED = {
    # Its Qwen2 takes hidden size / heads for the size of a head, where config.json says head_dim.
    ("qwen2", "stock-padded"): r"Unsupported CPU attention configuration: head_dim=21",
    ("llama", "ragged"): r"Unrecognized configuration class",
    ("llama", "openelm"): r"Input should be a valid integer \[type=int_type, input_value=\[3, 4\]",
}
BLOCK, CACHE_BYTES = 128, 2**30  # tokens of a block of the cache on CPUs; VLLM_CPU_KVCACHE_SPACE in vllm/run.py


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_layouts(model: str, layout: str, tmp_path: Path, record_property: Any) -> None:
    VLLM.require()
    converted = make_case(model, (layout,), tmp_path).converted[layout]
    request = converted.request(trust=layout in ("deci", "ragged", "openelm"), context=BLOCK)
    if (reason := REFUSED.get((model, layout))) is not None:
        with pytest.raises(ClientError, match=reason):
            VLLM.run("run.py", request, tmp_path, timeout=580)
        Record(VLLM.title, version(), layout, model, refused=f"{model}: {reason}").write(record_property)
        return
    answer = VLLM.run("run.py", request, tmp_path, timeout=580)
    largest = difference(answer.result, converted)
    assert answer.result["version"] == version()
    if layout in STOCK:
        assert kv_tokens(answer.log) == expected_kv_tokens(converted)
    Record(VLLM.title, version(), layout, model, largest, kv_bytes=layout in STOCK).write(record_property)


@pytest.mark.parametrize("layout", STOCK)
def test_joined_heads(layout: str, tmp_path: Path, record_property: Any) -> None:
    """Wide heads whose RoPE has every frequency twice."""
    VLLM.require()
    case, _ = make_joined_case((layout,), tmp_path)
    converted = case.converted[layout]
    answer = VLLM.run("run.py", converted.request(trust=False, context=BLOCK), tmp_path, timeout=580)
    largest = difference(answer.result, converted)
    assert kv_tokens(answer.log) == expected_kv_tokens(converted)
    Record(VLLM.title, version(), layout, case.model, largest, kv_bytes=True).write(record_property)


def version() -> str:
    """Of the package that is pinned, where the engine itself ends before it can say so."""
    pins = (Path(__file__).parent / "vllm" / "requirements.txt").read_text(encoding="utf-8")
    found = re.search(r"^vllm-cpu==(.+)$", pins, re.MULTILINE)
    assert found is not None
    return found.group(1)


def kv_tokens(log: str) -> int:
    """What vLLM says that its KV cache holds."""
    found = re.search(r"KV cache size: ([\d,]+) tokens", log)
    assert found is not None, log[-3000:]
    return int(found.group(1).replace(",", ""))


def expected_kv_tokens(converted: Converted) -> int:
    """Whole blocks of float32 keys and values of the groups' heads of 32, in so many bytes."""
    a_token = 2 * 4 * 32 * sum(converted.grouping.group_counts)
    return CACHE_BYTES // (BLOCK * a_token) * BLOCK

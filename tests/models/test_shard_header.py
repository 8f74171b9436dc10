"""Headers are read with nothing trusted: what is taken is what safetensors itself takes and sees."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gqasearch.errors import UserError
from gqasearch.models import CheckpointTensors
from gqasearch.models.shard_header import plan_header, read_header

TENSORS = {
    "layers.0.weight": torch.arange(6.0).reshape(2, 3),
    "layers.0.bias": torch.arange(3.0).bfloat16(),
    "é": torch.tensor(1.5, dtype=torch.float16),
    "ids": torch.arange(5, dtype=torch.int8),
    "nothing": torch.empty(0, 4),
}
FILE = save(TENSORS, metadata={"format": "pt"})


def written(path: Path, header: Any, data: bytes = b"\0" * 24) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, end: int, dtype: str = "F32", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def test_header_says_where_the_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(FILE)
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    assert set(header.tensors) == set(TENSORS) and header.data_start + header.nbytes == len(FILE)
    for name, tensor in TENSORS.items():
        place = header.tensors[name]
        assert (place.shape, place.nbytes) == (tuple(tensor.shape), tensor.nbytes)
        same = torch.frombuffer(bytearray(FILE[place.start : place.end]) or bytearray(4), dtype=tensor.dtype)
        assert torch.equal(same[: tensor.numel()].reshape(tensor.shape), tensor)
    planned, again = plan_header({n: (t.dtype, t.shape) for n, t in header.tensors.items()}, header.metadata)
    assert planned == FILE[: header.data_start] and again == header


def test_wide_tensors_come_first_so_that_all_are_aligned() -> None:
    _, header = plan_header({"a": ("I8", (3,)), "b": ("BF16", (5,)), "c": ("F32", (2,)), "d": ("BF16", (1,))}, {})
    assert list(header.tensors) == ["c", "b", "d", "a"] and header.data_start % 8 == 0
    assert [tensor.start - header.data_start for tensor in header.tensors.values()] == [0, 8, 18, 20]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 24)}, None),
        ({"a": entry(0, 12), "b": entry(12, 24)}, None),
        ({"a": entry(0, 16), "b": entry(12, 24)}, "tensor b begins at byte .*, the one before it ends at"),
        ({"a": entry(0, 8), "b": entry(12, 24)}, "tensor b begins at byte .*, the one before it ends at"),
        ({"a": entry(4, 24)}, "tensor a begins at byte"),
        ({"a": entry(0, 28)}, "its tensors end at byte .*, the file at"),
        ({"a": entry(0, 20)}, "its tensors end at byte .*, the file at"),
        ({"a": entry(0, 24, shape=[7])}, r"tensor a of F32 \[7\] is said to take 24 bytes"),
        ({"a": entry(24, 0, shape=[0])}, "is said to take -24 bytes"),
        ({"a": entry(0, 24, shape=[2**62, 4, 2**62, 0])}, "is said to take 24 bytes"),
        ({"a": entry(0, 24, "F31")}, "unknown dtype F31; known: F4,"),
        ({"a": entry(0, 24, shape=[-6])}, "has no dtype, shape and two offsets"),
        ({"a": entry(0, 24, shape=[True, 6])}, "has no dtype, shape and two offsets"),
        ({"a": entry(0, 24, shape=[6.0])}, "has no dtype, shape and two offsets"),
        ({"a": {"dtype": "F32", "shape": [6]}}, "has no dtype, shape and two offsets"),
        ({"a": [0, 24]}, "has no dtype, shape and two offsets"),
        ({"__metadata__": {"format": 1}, "a": entry(0, 24)}, "no mapping of words to words"),
        (b'{"a": {}, "a": {}}', "a name stands twice"),
        (rb'{"\ud800": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}', "is no valid JSON"),
        (rb'{"__metadata__": {"a": "\ud800"}}', "is no valid JSON"),
        (b"[1, 2]", "its header is no JSON object"),
        (b"[" * 100_000, "is no valid JSON"),
        (b"\xff{}", "is no valid JSON"),
        (b"", "is no valid JSON"),
    ],
)
def test_headers_that_lie_are_refused(header: Any, message: str | None, tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors", header)
    if message is None:
        assert sum(tensor.nbytes for tensor in read_header(path).tensors.values()) == 24
        return
    with pytest.raises(UserError, match=message) as refused:
        read_header(path)
    assert str(path) in str(refused.value)
    with pytest.raises(SafetensorError), safe_open(path, framework="pt"):
        pass


@pytest.mark.parametrize("length", [25, 10**8 + 1, 2**63, 2**64 - 1])
def test_header_longer_than_the_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + b" " * 20)
    with pytest.raises(UserError, match=rf"damaged or truncated: a header of {length} bytes in a file of 30"):
        read_header(path)


@pytest.mark.parametrize("size", [0, 7, 8, 100, len(FILE) - 1])
def test_truncated_files(size: int, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(FILE[:size])
    with pytest.raises(UserError, match="is damaged or truncated"):
        CheckpointTensors(tmp_path).headers  # noqa: B018


@pytest.mark.parametrize("listed", ['{"weight_map": ["a"]}', '{"weight_map": 3}', "{}", "[]", "{", '"weight_map"'])
def test_index_of_another_form(listed: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(listed)
    with pytest.raises(UserError, match=r"index.json cannot be read"):
        CheckpointTensors(tmp_path).shard_of  # noqa: B018


@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_bytes_that_changed_are_refused_or_read_as_safetensors_reads_them(changes: list[tuple[int, int]]) -> None:
    data = bytearray(FILE)
    for place, value in changes:
        data[place] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        try:
            header = read_header(path)
        except UserError:
            return
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == set(header.tensors) and (file.metadata() or {}) == header.metadata
            for name, tensor in header.tensors.items():
                assert file.get_slice(name).get_shape() == list(tensor.shape)
                assert file.get_slice(name).get_dtype() == tensor.dtype

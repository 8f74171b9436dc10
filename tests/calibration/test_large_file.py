"""A large file has the same parts as if it were read whole, and is read as far as it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gqasearch.calibration import (
    FilePart,
    large_file,
    load_documents,
    load_whole,
    make_blocks,
    stream_documents,
    stream_whole,
)
from gqasearch.embedded import SPLITS, Document
from gqasearch.errors import UserError
from tests.samples import random_text
from tests.tiny_models import tiny_tokenizer


def text_of(document: Document | FilePart) -> str:
    return "".join(document.chunks(7))


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_file, "LARGE", 0)
    monkeypatch.setattr(large_file, "CHUNK", 16)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(["a", "bc ", "\r\n", "\n", "\r", "é", "世", "\U0001f600", "\0", "\ufeff"])))
@example(pieces=["0123456789abcde", "\r\n", "x" * 30])  # CR LF on both sides of a chunk's end
@example(pieces=["\ufeff", "é" * 50])
def test_parts_are_those_of_the_whole(pieces: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("".join(pieces).encode())
    for split in SPLITS:
        try:
            expected = [document.text for document in load_documents(str(path), split)]
        except UserError as error:
            with pytest.raises(UserError, match="is too short" if "short" in str(error) else "is"):
                list(stream_documents(str(path), split))
        else:
            assert [text_of(document) for document in stream_documents(str(path), split)] == expected
            assert [text_of(d) for d in stream_whole(str(path))] == [d.text for d in load_whole(str(path))]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
@pytest.mark.parametrize("large", [True, False])
def test_a_long_file_is_read_all_over(
    large: bool, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few blocks come from everywhere in it, and nothing is lost between its segments."""
    monkeypatch.setattr(large_file, "LARGE", 0 if large else 10**9)
    path, text = tmp_path / f"a{suffix}", "".join(f"{number:05} é\n" for number in range(2000))
    path.write_text(text if suffix == ".txt" else json.dumps({"text": text}), encoding="utf-8")
    parts = {split: [*map(text_of, stream_documents(str(path), split, 500))] for split in SPLITS}
    assert "".join(part for split in SPLITS for part in parts[split]) == text
    for split, found in parts.items():
        (whole,) = load_documents(str(path), split)
        assert len(found) == len(whole.text) // 500 > 5
        assert max(map(len, found)) - min(map(len, found)) <= 1
    tokenizer, documents = tiny_tokenizer(), stream_documents(str(path), "calibration", 500)
    blocks = make_blocks(documents, tokenizer, 16, 16 * len(parts["calibration"]), "test")
    for row, part in zip(blocks.ids, parts["calibration"], strict=True):
        assert part.startswith(tokenizer.decode(row[1:]))


def test_short_files_and_many_documents_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"{index} " * 400}) + "\n" for index in range(20)), encoding="utf-8")
    short = tmp_path / "a.txt"
    short.write_text("word " * 300, encoding="utf-8")
    for file in (path, short):
        found = [text_of(one) for one in stream_documents(str(file), "search", 500)]
        assert found == [text_of(one) for one in stream_documents(str(file), "search")]


@pytest.mark.parametrize("count", [1, 2, 23])
def test_records_are_those_of_the_whole(count: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"{index} " * 8}) + "\n" * (1 + index % 3) for index in range(count)]
    path.write_text("\ufeff\n" + "".join(lines), encoding="utf-8")
    if count == 2:  # of two lines none is calibration's
        with pytest.raises(UserError, match="too short"):
            stream_documents(str(path), "calibration")
        return
    for split in SPLITS:
        found = [Document(d.name, text_of(d)) for d in stream_documents(str(path), split)]
        assert found == load_documents(str(path), split)
    assert [text_of(d) for d in stream_whole(str(path))] == [d.text for d in load_whole(str(path))]


def test_what_is_not_needed_is_not_read(tmp_path: Path) -> None:
    """Bytes that are no text, and a line that is no record, far behind what is wanted."""
    text = random_text(3000)
    (tmp_path / "a.txt").write_bytes(text.encode() * 100 + b"\xff" * 100)
    blocks = make_blocks(stream_documents(str(tmp_path / "a.txt"), "calibration"), tiny_tokenizer(), 32, 100, "test")
    assert tiny_tokenizer().decode(blocks.ids[0, 1:]) == text[:31]
    record = json.dumps({"text": random_text(100)}) + "\n"
    (tmp_path / "a.jsonl").write_text(record * 50 + "{no record\n" + record * 50)
    blocks = make_blocks(stream_documents(str(tmp_path / "a.jsonl"), "search"), tiny_tokenizer(), 32, 100, "test")
    assert blocks.tokens == 128

"""Texts are cut into disjoint parts and into blocks; bad ones are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.calibration import load_documents, make_blocks
from gqasearch.embedded import SPLITS, Document, held_out_documents
from gqasearch.embedded.library_text import HELD_OUT_MODULES, fallback_documents
from gqasearch.errors import UserError
from tests.samples import random_text, text_file
from tests.tiny_models import VOCAB_SIZE, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def test_embedded_sets_are_disjoint_and_large_enough() -> None:
    names = [name for split in SPLITS for name in HELD_OUT_MODULES[split]]
    assert len(names) == len(set(names))
    assert all(sum(len(d.text) for d in held_out_documents(split)) > 250_000 for split in SPLITS)


def test_fallback_text_is_disjoint(tmp_path: Path) -> None:
    names = [d.name for split in SPLITS for d in fallback_documents(split)]
    assert len(names) == len(set(names))
    assert held_out_documents("search", root=tmp_path) == fallback_documents("search")
    assert all(sum(len(d.text) for d in fallback_documents(split)) > 10_000 for split in SPLITS)


def test_one_file_serves_three_purposes_without_overlap(tmp_path: Path) -> None:
    path = text_file(tmp_path, 1000)
    parts = [load_documents(str(path), split)[0].text for split in SPLITS]
    assert "".join(parts) == path.read_text()
    assert [len(part) for part in parts] == [400, 300, 300]


def test_jsonl_and_folder(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {i}"}) for i in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = [[d.text for d in load_documents(str(tmp_path / "a.jsonl"), split)] for split in SPLITS]
    assert [len(part) for part in found] == [4, 3, 3]
    assert sorted(piece for part in found for piece in part) == sorted(json.loads(line)["text"] for line in lines)
    folder = tmp_path / "folder"
    folder.mkdir()
    for index in range(4):
        (folder / f"{index}.txt").write_text(f"text {index}")
    texts = [d.text for split in SPLITS for d in load_documents(str(folder), split)]
    assert sorted(texts) == [f"text {index}" for index in range(4)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "  \n", "is empty"),
        ("a.txt", b"\xff\xfe\xfa", "is not UTF-8"),
        ("a.md", "text", "expected a .txt or .jsonl"),
        ("a.jsonl", '{"text": "a"}\n{"txt": 1}\n', "line 2: expected an object with a string field 'text'"),
        ("a.jsonl", "{", "line 1: not valid JSON"),
        ("a.txt", "ab", "too short"),
    ],
)
def test_bad_text_is_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        [load_documents(str(path), split) for split in SPLITS]


def test_missing_text_is_refused() -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        load_documents("/no/such/text.txt", "search")


@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5), length=st.integers(4, 40), limit=st.integers(2, 400)
)
def test_blocks_hold_the_text_in_order(sizes: list[int], length: int, limit: int) -> None:
    documents = [Document(str(i), random_text(size, i)) for i, size in enumerate(sizes)]
    if sum(sizes) < length - 1:
        with pytest.raises(UserError, match="fewer than one block"):
            make_blocks(documents, TOKENIZER, length, limit, "test")
        return
    blocks = make_blocks(documents, TOKENIZER, length, limit, "test")
    assert (blocks.ids[:, 0] == TOKENIZER.bos_token_id).all()
    body = [TOKENIZER.decode(ids[mask][1:]) for ids, mask in zip(blocks.ids, blocks.mask, strict=True)]
    assert all(any(piece in document.text for document in documents) for piece in body)
    assert blocks.tokens - length < limit  # stops at the first block that reaches the limit
    assert (blocks.mask.int().diff(dim=1) <= 0).all()  # padding only at the end
    assert blocks.bytes_per_token == 1.0  # one token per byte


def test_first_blocks_are_the_same_text() -> None:
    blocks = make_blocks([Document("a", random_text(2000))], TOKENIZER, 32, 10_000, "test")
    few = blocks.first(100)
    assert few.tokens >= 100 > few.tokens - 32
    assert (blocks.ids[: len(few.ids)] == few.ids).all()


def test_a_record_may_hold_any_line_separator(tmp_path: Path) -> None:
    """JSON allows U+2028, U+2029 and U+0085 inside strings: they end no line of a .jsonl."""
    texts = [f"{index} one\u2028two\u2029three\u0085" for index in range(10)]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert [d.text for split in SPLITS for d in load_documents(str(tmp_path / "a.jsonl"), split)] == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "fine"}\n{"text": "half \\ud800 a pair"}\n', r"line 2: '\\ud800' at character 5 of 'text'"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}\n", "line 1: not valid JSON"),
        ("[" * 100_000, "line 1: not valid JSON"),
    ],
)
def test_a_record_that_cannot_be_text_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        load_documents(str(tmp_path / "a.jsonl"), "search")


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    lines = "".join(f'{{"text": "line {index}"}}\r\n' for index in range(10))
    for folder, mark in (("with", "\ufeff"), ("without", "")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes((mark + lines).encode())
    found = [
        [document.text for split in SPLITS for document in load_documents(str(tmp_path / folder / name), split)]
        for folder in ("with", "without")
    ]
    assert found[0] == found[1] and "\ufeff" not in "".join(found[0]) and "\r" not in "".join(found[0])


def test_padding_has_an_embedding() -> None:
    """``[PAD]`` added to a tokenizer, the model's embeddings not resized: its id is beyond them."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    documents = [Document("a", "a" * 20), Document("b", "b" * 9)]
    blocks = make_blocks(documents, tokenizer, 16, 100, "test", vocabulary=VOCAB_SIZE)
    assert tokenizer.pad_token_id == VOCAB_SIZE and not blocks.mask.all()
    assert int(blocks.ids.max()) < VOCAB_SIZE
    assert int(make_blocks(documents, tokenizer, 16, 100, "test", vocabulary=VOCAB_SIZE + 1).ids.max()) == VOCAB_SIZE


def test_a_token_without_an_embedding_is_named() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    document = Document("a", "b" * 50 + "<|im_start|>" + "c" * 50)
    make_blocks([document], tokenizer, 16, 32, "test", vocabulary=VOCAB_SIZE)  # it is not among these
    with pytest.raises(UserError, match=rf"'<\|im_start\|>', id {VOCAB_SIZE}, .* of {VOCAB_SIZE} tokens"):
        make_blocks([document], tokenizer, 16, 100, "test", vocabulary=VOCAB_SIZE)


def test_documents_of_one_token_are_refused() -> None:
    with pytest.raises(UserError, match="no document of two tokens"):
        make_blocks([Document(str(index), "a") for index in range(50)], TOKENIZER, 16, 100, "test")


def test_batches_are_as_long_as_their_longest_block() -> None:
    documents = [Document(str(index), random_text(size)) for index, size in enumerate((90, 12, 40, 10, 90))]
    blocks = make_blocks(documents, TOKENIZER, 32, 10_000, "test", short_length=16)
    lengths = blocks.mask.sum(1).tolist()
    batches = list(blocks.batches(3))
    for ids, mask in batches:
        assert ids.shape == mask.shape and mask.any(0).all()  # nothing that is padding to all
        assert len(set((mask.sum(1) <= 16).tolist())) == 1  # short ones by themselves
    assert sorted(int(row.sum()) for _, mask in batches for row in mask) == sorted(lengths)
    for (ids, _), targets in zip(batches, blocks.targets(3), strict=True):
        assert torch.equal(targets.tokens, ids[:, 1:])
    whole = make_blocks(documents[:1], TOKENIZER, 31, 90, "test").batches(2)
    assert [ids.shape for ids, _ in whole] == [(2, 31), (1, 31)]

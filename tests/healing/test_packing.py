"""Documents become full blocks on disk: in order, once, whole or not at all, and reused only where they fit."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from gqasearch.calibration import pieces
from gqasearch.embedded import Document
from gqasearch.errors import UserError
from gqasearch.healing import packing
from gqasearch.healing.packing import PackedBlocks, pack, training_order
from tests.samples import random_text
from tests.tiny_encoders import encoder_tokenizer
from tests.tiny_models import VOCAB_SIZE, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
BOS, EOS = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id
DOCUMENTS = [Document(str(index), random_text(size, index)) for index, size in enumerate((90, 5, 300))]


def packed(path: Path, documents: Any = DOCUMENTS, length: int = 16, blocks: int = 10**6, **given: Any) -> PackedBlocks:
    return pack(documents, given.pop("tokenizer", TOKENIZER), length, blocks, path, "test", **given)


def encode(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def unreadable() -> Iterator[Document]:
    raise AssertionError("a document was read")
    yield


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.tuples(st.text(max_size=60), st.booleans()), min_size=1, max_size=6),
    length=st.integers(3, 20),
    limit=st.integers(1, 12),
    batch=st.integers(1, 100),
)
def test_blocks_hold_the_text_in_order(
    texts: list[tuple[str, bool]], length: int, limit: int, batch: int, tmp_path: Path
) -> None:
    """As tokenised at once: EOS before every document that does not go on, BOS before every block."""
    stream: list[int] = []
    for text, continues in texts:
        stream += ([] if continues or not stream else [EOS]) + encode(text)
    expected = [[BOS, *stream[start : start + length - 1]] for start in range(0, len(stream), length - 1)]
    expected = [row for row in expected if len(row) == length][:limit]
    documents = [Document("a", text, continues) for text, continues in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BATCH", batch)
        (tmp_path / "a.json").unlink(missing_ok=True)
        if not expected:
            with pytest.raises(UserError, match="fewer than one block"):
                packed(tmp_path / "a.npy", documents, length, limit)
            return
        found = packed(tmp_path / "a.npy", documents, length, limit)
    assert found.ids.tolist() == expected
    assert found.tokens == length * len(expected)


def test_blocks_of_encoders_stand_between_cls_and_sep(tmp_path: Path) -> None:
    tokenizer = encoder_tokenizer()
    ids = packed(tmp_path / "a.npy", tokenizer=tokenizer, objective="masked").ids
    text = "".join(document.text for document in DOCUMENTS)  # this tokenizer has no EOS
    assert (ids[:, 0] == tokenizer.cls_token_id).all() and (ids[:, -1] == tokenizer.sep_token_id).all()
    assert tokenizer.decode(ids[:, 1:-1].reshape(-1)) == text[: ids[:, 1:-1].size]


def test_a_tokenizer_without_bos_and_eos(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    ids = packed(tmp_path / "a.npy", tokenizer=tokenizer).ids
    assert tokenizer.decode(ids.reshape(-1)) == "".join(document.text for document in DOCUMENTS)[: ids.size]


def test_no_more_is_read_than_is_needed(tmp_path: Path) -> None:
    read: list[int] = []

    def endless() -> Iterator[Document]:
        for index in count():
            read.append(index)
            yield Document(str(index), random_text(1000, index))

    told: list[tuple[int, int]] = []
    found = packed(tmp_path / "a.npy", endless(), length=33, blocks=1000, progress=lambda *done: told.append(done))
    assert found.ids.shape == (1000, 33)
    assert len(read) * 1000 <= 32 * 1000 + packing.BATCH + 1000
    assert told == sorted(told) and told[-1] == (1000, 1000) and len(told) > 10


def test_what_is_said_of_the_blocks(tmp_path: Path) -> None:
    found = packed(tmp_path / "a.npy", [Document("a", "äöü" * 20)])
    assert isinstance(found.ids, np.memmap) and found.ids.dtype == np.int32
    assert found.bytes_per_token == 1.0  # one token per byte
    assert found.source == "test"
    blocks = found.blocks([2, 0, 2])
    assert blocks.dtype == torch.int64 and blocks.tolist() == found.ids[[2, 0, 2]].tolist()
    other = packed(tmp_path / "b.npy", [Document("b", "äöü" * 20)])
    shorter = packed(tmp_path / "c.npy", [Document("b", "äöü" * 10)])
    assert found.fingerprint == other.fingerprint != shorter.fingerprint


def test_packed_once(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    first = packed(path)
    again = packed(path, unreadable())
    assert (again.fingerprint, again.bytes_per_token) == (first.fingerprint, first.bytes_per_token)
    assert np.array_equal(again.ids, first.ids)
    TOKENIZER(["a", "b c"], padding=True, truncation=True, max_length=8)  # leaves its settings in the tokenizer
    packed(path, unreadable())


@pytest.mark.parametrize("changed", ["length", "blocks", "objective", "tokenizer", "source", "format"])
def test_packed_anew_for_other_settings(tmp_path: Path, changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tokenizer = tmp_path / "a.npy", encoder_tokenizer()
    packed(path, tokenizer=tokenizer)
    arguments: dict[str, Any] = {"tokenizer": tokenizer, "length": 16, "max_blocks": 10**6, "source": "test"}
    if changed == "format":
        monkeypatch.setattr(packing, "FORMAT", packing.FORMAT + 1)
    elif changed == "tokenizer":
        tokenizer.add_tokens([AddedToken("alpha")])
    else:
        arguments |= {
            "length": {"length": 17},
            "blocks": {"max_blocks": 3},
            "objective": {"objective": "masked"},
            "source": {"source": "other"},
        }[changed]
    with pytest.raises(AssertionError, match="a document was read"):
        pack(unreadable(), path=path, **arguments)
    assert not path.with_suffix(".json").exists()  # of what is there, nothing is said any more
    pack(DOCUMENTS, path=path, **arguments)
    pack(unreadable(), path=path, **arguments)


@pytest.mark.parametrize("damage", ["bits", "cut", "no record", "no blocks", "no json", "other json"])
def test_packed_anew_where_files_are_damaged(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npy"
    record = path.with_suffix(".json")
    expected = packed(path).ids.tolist()
    content = path.read_bytes()
    if damage == "bits":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(content[:-4])
    elif damage in ("no record", "no blocks"):
        (record if damage == "no record" else path).unlink()
    else:
        record.write_text("{" if damage == "no json" else "[]", encoding="utf-8")
    assert packed(path).ids.tolist() == expected
    packed(path, unreadable())


def test_killed_while_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL after some blocks: nothing stands under the names, and the next call clears what was left aside."""
    path = tmp_path / "a.npy"

    def documents() -> Iterator[Document]:
        yield from DOCUMENTS
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(packing, "BATCH", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: none holds what packing needs
        child = os.fork()
    if child == 0:
        try:
            packed(path, documents())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.npy.partial-")
    packed(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.npy"]


def test_an_error_in_the_text_leaves_nothing(tmp_path: Path) -> None:
    def documents() -> Iterator[Document]:
        yield from DOCUMENTS
        raise UserError("line 7")

    with pytest.raises(UserError, match="line 7"):
        packed(tmp_path / "a.npy", documents())
    assert list(tmp_path.iterdir()) == []


def test_short_text_and_short_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the text \(test\) has 15 tokens, fewer than one block of 17; give more text"):
        packed(tmp_path / "a.npy", [Document("a", "x" * 15)], length=17)
    with pytest.raises(UserError, match="--block-length must be at least 3, got 2"):
        packed(tmp_path / "a.npy", length=2)
    assert list(tmp_path.iterdir()) == []


def test_no_pickles(tmp_path: Path) -> None:
    """A file of Python objects at the path is not read, with whatever record beside it."""
    path = tmp_path / "a.npy"
    packed(path)
    described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    path.with_suffix(".json").write_text(json.dumps(described), encoding="utf-8")
    assert packed(path).fingerprint == described["fingerprint"]


@given(blocks=st.integers(1, 30), wanted=st.integers(0, 100), more=st.integers(0, 50), seed=st.integers(0, 5))
def test_every_block_once_before_any_twice(blocks: int, wanted: int, more: int, seed: int) -> None:
    order = training_order(blocks, wanted, np.random.default_rng(seed))
    assert order.shape == (wanted,) and order.dtype == np.int64
    for start in range(0, wanted, blocks):
        epoch = order[start : start + blocks]
        assert len(set(epoch.tolist())) == len(epoch) and set(epoch.tolist()) <= set(range(blocks))
    longer = training_order(blocks, wanted + more, np.random.default_rng(seed))
    assert longer[:wanted].tolist() == order.tolist()
    if wanted >= 2 * blocks >= 20:
        assert order[:blocks].tolist() != order[blocks : 2 * blocks].tolist()


def test_a_long_record_is_packed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Document("long", random_text(3000))
    expected = packed(tmp_path / "a.npy", [*DOCUMENTS, document, *DOCUMENTS]).ids.tolist()
    monkeypatch.setattr(packing, "WHOLE", 1000)
    monkeypatch.setattr(pieces, "WHOLE", 1000)
    monkeypatch.setattr(pieces, "PIECE", 500)
    monkeypatch.setattr(pieces, "OVERLAP", 100)
    assert packed(tmp_path / "b.npy", [*DOCUMENTS, document, *DOCUMENTS]).ids.tolist() == expected


def test_a_token_without_an_embedding_is_named(tmp_path: Path) -> None:
    """EOS, added to the tokenizer and not to the model, stands between documents."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    with pytest.raises(UserError, match=rf"'<\|im_end\|>', id {VOCAB_SIZE}"):
        packed(tmp_path / "a.npy", tokenizer=tokenizer, vocabulary=VOCAB_SIZE)
    assert not list(tmp_path.iterdir())
    packed(tmp_path / "a.npy", tokenizer=tokenizer, vocabulary=VOCAB_SIZE + 1)

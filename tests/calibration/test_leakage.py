"""Benchmarks by name, and text that was seen before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gqasearch.calibration import TokenBlocks, benchmark_named, overlap
from gqasearch.calibration.leakage import WINDOW


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/wikitext-2/wiki.test.raw.txt", "WikiText"),
        ("wikitext-103-raw-v1_test.jsonl", "WikiText"),
        ("/texts/ptb.test.txt", "Penn Treebank"),
        ("lambada_test.jsonl", "LAMBADA"),
        ("c4-validation.jsonl", "C4"),
        ("eval/hellaswag.jsonl", "HellaSwag"),
        ("gsm8k.txt", "GSM8K"),
        ("ARC-Challenge.jsonl", "ARC"),
    ],
)
def test_test_sets_are_known_by_name(path: str, name: str) -> None:
    assert benchmark_named(path) == name


@pytest.mark.parametrize(
    "path", ["embedded", "book.txt", "wikitext-2/wiki.train.txt", "c4/train.jsonl", "search.txt", "architecture.txt"]
)
def test_other_texts_are_not(path: str) -> None:
    assert benchmark_named(path) is None


def blocks(rows: list[np.ndarray], padding: int = 0) -> TokenBlocks:
    ids = torch.tensor(np.stack(rows), dtype=torch.int64)
    mask = torch.ones(ids.shape, dtype=torch.bool)
    if padding:
        mask[:, -padding:] = False
    return TokenBlocks(ids, mask, "made up")


def test_overlap_counts_windows_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    seen, new = (rng.integers(1000, size=(4, 100)) for _ in range(2))
    assert overlap(blocks(list(seen)), blocks(list(new))) == 0.0
    assert overlap(blocks(list(seen)), blocks(list(seen[::-1]))) == 1.0
    copied = new.copy()
    copied[1, 7:67] = seen[3, 31:91]  # 60 tokens hold 60 - WINDOW + 1 windows
    expected = (60 - WINDOW + 1) / (4 * (100 - WINDOW + 1))
    assert overlap(blocks(list(seen)), blocks(list(copied))) == pytest.approx(expected)


def test_padding_is_no_text() -> None:
    rng = np.random.default_rng(0)
    seen, new = (rng.integers(5, size=(2, 100)) for _ in range(2))
    seen[:, 60:] = new[:, 60:] = 1
    assert overlap(blocks(list(seen), 40), blocks(list(new), 40)) == 0.0
    assert overlap(blocks(list(seen)), blocks(list(new))) > 0.0


def test_blocks_shorter_than_a_window_are_compared_whole() -> None:
    rows = [np.arange(10), np.arange(10, 20)]
    assert overlap(blocks(rows), blocks([rows[1], np.arange(5, 15)])) == 0.5
    assert overlap(blocks(rows), blocks([np.arange(40)])) == 0.0

"""What makes a reported figure worthless: a benchmark's test set as search text, or text that was seen before."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from gqasearch.calibration.blocks import TokenBlocks

# File or folder names of test sets that papers report on. A search that ran the model on one has been tuned on it.
BENCHMARKS: dict[str, str] = {
    "WikiText": r"wiki(text)?[\W_]*(2|103)?.*\b(test|valid(ation)?)\b|wiki\.test",
    "Penn Treebank": r"\bptb\b|penn.?tree",
    "LAMBADA": r"lambada",
    "C4": r"\bc4\b.*\b(valid(ation)?|test)\b",
    "The Pile": r"\bpile\b.*\b(val|valid(ation)?|test)\b",
    "HellaSwag": r"hella.?swag",
    "MMLU": r"\bmmlu\b",
    "ARC": r"\barc[\W_]?(easy|challenge)\b",
    "GSM8K": r"gsm8k",
    "HumanEval": r"human.?eval",
    "MBPP": r"\bmbpp\b",
    "PIQA": r"\bpiqa\b",
    "WinoGrande": r"wino.?grande",
    "BoolQ": r"\bboolq\b",
    "TruthfulQA": r"truthful.?qa",
}

# So many tokens in a row are not equal by chance; quotations and licence texts are.
WINDOW = 32


def benchmark_named(text: str) -> str | None:
    """The benchmark whose test set ``text`` (a path) is named after, None for any other."""
    words = re.sub(r"[_\-./\\]+", " ", Path(text).as_posix().lower())
    for name, pattern in BENCHMARKS.items():
        if re.search(pattern, words) or re.search(pattern, text.lower()):
            return name
    return None


def overlap(seen: TokenBlocks, reported: TokenBlocks) -> float:
    """Share of the ``WINDOW``-token windows of ``reported`` that also stand in ``seen``, at any place."""
    known = np.unique(_windows(seen))
    windows = _windows(reported)
    return float(np.isin(windows, known).mean()) if len(windows) else 0.0


def _windows(blocks: TokenBlocks) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """A hash of every window of tokens that are no padding; windows do not cross blocks."""
    ids, mask = blocks.text.numpy().astype(np.uint64), blocks.mask.numpy()
    width = min(WINDOW, ids.shape[1])
    hashed = np.zeros((len(ids), ids.shape[1] - width + 1), dtype=np.uint64)
    inside = np.ones(hashed.shape, dtype=bool)
    for offset in range(width):
        part = slice(offset, offset + hashed.shape[1])
        # Polynomial hash, modulo 2^64: an odd base keeps every token's share.
        hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + ids[:, part] + np.uint64(1)
        inside &= mask[:, part]
    return hashed[inside]

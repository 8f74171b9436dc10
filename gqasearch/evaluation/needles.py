"""Needles: keys with values, hidden in held-out text, one of which is asked for at its end.

What retrieval tests ask in words (RULER's multi-key needles, arXiv 2404.06654) is asked in tokens here, so that every
model can be asked, whatever its language: a key is a few tokens drawn from the text itself, its value one more.
Answering takes no knowledge, only finding the key again and reading on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from gqasearch.calibration import NO_TARGET, TokenBlocks
from gqasearch.evaluation.climb import climb
from gqasearch.evaluation.runners import LayerStack
from gqasearch.evaluation.sums import How

NEEDLES = 4  # in every text, and so the values to choose from
KEY_TOKENS = 3


@dataclass(frozen=True, eq=False)
class Needles:
    """N questions. ``ids`` (N, T): texts that end in a key; ``values`` (N, NEEDLES): of all keys of a text; ``answers``
    (N,): which of them belongs to the key that is asked for; ``distances`` (N,): tokens from the question back to where
    that key stands with its value.
    """

    ids: NDArray[np.int64]
    values: NDArray[np.int64]
    answers: NDArray[np.int64]
    distances: NDArray[np.int64]


def needles(blocks: TokenBlocks, texts: int, rng: np.random.Generator) -> Needles | None:
    """``NEEDLES`` questions on each of at most ``texts`` of the ``blocks``, evenly from all whole ones.

    A text is as long as a block, and its keys lie evenly over it. None where blocks are too short, or have too few
    tokens that differ.
    """
    drawn = NEEDLES * (KEY_TOKENS + 1)
    room = blocks.ids.shape[1] - drawn - KEY_TOKENS
    whole = blocks.ids[blocks.mask.all(1)]
    known = torch.unique(whole[:, 1:]).numpy()  # the first may be a token that only begins texts
    if room <= 2 * NEEDLES or len(known) < drawn:
        return None
    chosen = np.linspace(0, len(whole) - 1, min(texts, len(whole))).round().astype(int)
    made = [_of_text(text[:room], known, rng) for text in whole[chosen].numpy()]
    return Needles(*(np.concatenate(parts) for parts in zip(*made, strict=True)))


def _of_text(
    text: NDArray[np.int64], known: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], ...]:
    pairs = rng.choice(known, (NEEDLES, KEY_TOKENS + 1), replace=False)
    cuts = [len(text) * (2 * index + 1) // (2 * NEEDLES) for index in range(NEEDLES)]
    hidden = np.insert(text, np.repeat(cuts, KEY_TOKENS + 1), pairs.ravel())
    starts = np.array(cuts) + np.arange(NEEDLES) * (KEY_TOKENS + 1)
    ids = np.stack([np.concatenate([hidden, pair[:KEY_TOKENS]]) for pair in pairs])
    return ids, np.tile(pairs[:, -1], (NEEDLES, 1)), np.arange(NEEDLES), len(hidden) - starts


def right_answers(stacks: Sequence[LayerStack], asked: Needles, **how: Unpack[How]) -> NDArray[np.bool_]:
    """Which questions every model answers right, (models, N): of a text's values the right one is the likeliest."""
    ids = torch.from_numpy(asked.ids)
    labels = torch.full_like(ids, NO_TARGET)
    labels[:, -1] = torch.from_numpy(asked.values[np.arange(len(ids)), asked.answers])  # predicted at the last token
    blocks = TokenBlocks(ids, torch.ones_like(ids, dtype=torch.bool), "needles", labels=labels)
    batch_blocks = how.setdefault("batch_blocks", 8)
    right = np.zeros((len(stacks), len(ids)), dtype=np.bool_)
    for found in climb(stacks, blocks, **how):
        rows = found.batch * batch_blocks + found.blocks.numpy()
        for model, scores in enumerate(found.scores):
            offered = scores.cpu().gather(1, torch.from_numpy(asked.values[rows]))
            right[model, rows] = offered.argmax(1).numpy() == asked.answers[rows]
    return right

"""Multiple choice by log-likelihood: the continuation that a model finds likeliest is its answer.

Tokens and sums are those of lm-eval's ``hf`` models (EleutherAI/lm-evaluation-harness, ``multiple_choice``), so that
both give the same answers; tests/clients holds them against each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from gqasearch.calibration import no_progress
from gqasearch.calibration.blocks import check_known
from gqasearch.embedded import ChoiceItem
from gqasearch.evaluation.runners import Runner


@dataclass(frozen=True, eq=False)
class ChoiceScores:
    """Of N items with C choices.

    ``log_likelihoods`` (N, C): nats; ``lengths`` (N, C): characters of the choices; ``answers`` (N,): the right ones.
    """

    log_likelihoods: NDArray[np.float64]
    lengths: NDArray[np.int64]
    answers: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Items whose right choice is the likeliest, (N,)."""
        found: NDArray[np.bool_] = self.log_likelihoods.argmax(1) == self.answers
        return found

    @property
    def right_by_length(self) -> NDArray[np.bool_]:
        """The same for the log-likelihood per character, (N,)."""
        found: NDArray[np.bool_] = (self.log_likelihoods / self.lengths).argmax(1) == self.answers
        return found


def share_and_error(right: NDArray[np.bool_]) -> tuple[float, float]:
    """The share of right answers and its standard error, sqrt(p (1 - p) / (n - 1)); NaN for one item."""
    share = float(right.mean())
    return share, math.sqrt(share * (1 - share) / (len(right) - 1)) if len(right) > 1 else math.nan


def score_choices(
    run: Runner,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[ChoiceItem],
    *,
    context_length: int | None = None,
    vocabulary: int | None = None,
    short_length: int | None = None,
    batch: int = 16,
    progress: Callable[[int, int], None] = no_progress,
) -> ChoiceScores:
    """Log-likelihoods of every choice of ``items``, which all have as many.

    ``context_length``: most tokens that the model takes; longer contexts lose their beginning. ``vocabulary``: how many
    it has embeddings of. ``short_length``: as in ``TokenBlocks``.
    """
    pairs = [_tokens(tokenizer, item.context, choice) for item in items for choice in item.choices]
    check_known(np.array([token for pair in pairs for part in pair for token in part]), tokenizer, vocabulary)
    found = np.empty(len(pairs))
    done = 0
    for chosen in _batches([len(before) + len(after) - 1 for before, after in pairs], batch, short_length or 0):
        found[chosen] = _log_likelihoods(run, [pairs[index] for index in chosen], context_length)
        done += len(chosen)
        progress(done * len(items) // len(pairs), len(items))
    return ChoiceScores(
        found.reshape(len(items), -1),
        np.array([[len(choice) for choice in item.choices] for item in items]),
        np.array([item.answer for item in items]),
    )


def _batches(lengths: Sequence[int], batch: int, short_length: int) -> Iterator[list[int]]:
    """Numbers of the pairs of every batch; similar lengths together: little padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    count = sum(length <= short_length for length in lengths)
    for alike in (order[:count], order[count:]):
        yield from (alike[start : start + batch] for start in range(0, len(alike), batch))


def _tokens(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Both as tokens: cut from the tokens of the whole, spaces at the seam belong to the continuation."""
    bare = context.rstrip()
    # verbose=False: a text longer than the context is cut below
    whole = tokenizer(context + continuation, verbose=False)["input_ids"]
    before = tokenizer(bare, verbose=False)["input_ids"]
    return list(before), list(whole[len(before) :])


def _log_likelihoods(
    run: Runner, pairs: Sequence[tuple[list[int], list[int]]], context_length: int | None
) -> NDArray[np.float64]:
    """Of the continuations, (B,), in one forward pass padded at the right."""
    most = max(len(before) + len(after) for before, after in pairs) if context_length is None else context_length + 1
    rows = [(before + after)[-most:] for before, after in pairs]
    length = max(map(len, rows)) - 1  # the last token is only predicted
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row) - 1] = torch.tensor(row[:-1])
        mask[index, : len(row) - 1] = True
    log_probs = run(ids, mask).log_softmax(-1).cpu()
    found = np.empty(len(rows))
    for index, (row, (_, after)) in enumerate(zip(rows, pairs, strict=True)):
        stop = len(row) - 1
        predicted = log_probs[index, stop - len(after) : stop]
        found[index] = float(predicted.gather(1, torch.tensor(after)[:, None]).double().sum())
    return found

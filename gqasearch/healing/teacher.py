"""What the student learns from: the parent's distribution at every target, computed beside it or read from disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from gqasearch.calibration import Targets, no_progress
from gqasearch.evaluation import KeptPredictions, Runner, kl_per_token


class Teacher(Protocol):
    """Gives the loss of a batch's predictions."""

    def kl(self, index: Tensor, ids: Tensor, targets: Targets, scores: Tensor) -> Tensor:
        """Mean KL(parent || student) over targets, nats.

        ``index`` (B,): which blocks; ``ids`` (B, T); ``scores`` (B, P, V): the student's logits at the targets.
        """


@dataclass(frozen=True)
class LiveParent:
    """Runs the parent at every step; the KL is exact."""

    run: Runner

    def kl(self, index: Tensor, ids: Tensor, targets: Targets, scores: Tensor) -> Tensor:
        reference = targets.of(self.run(ids, torch.ones_like(ids, dtype=torch.bool))).log_softmax(-1)
        return masked_mean(kl_per_token(reference, scores.log_softmax(-1)), targets.wanted)


@dataclass(frozen=True)
class StoredParent:
    """The K likeliest tokens of the parent at every target, from disk, and the sum of all others.

    ``tokens`` (N, P, K) int32, ``logp`` (N, P, K) float32. The KL is a lower bound: what happens within the rest is not
    seen.
    """

    tokens: NDArray[np.int32]
    logp: NDArray[np.float32]

    def kl(self, index: Tensor, ids: Tensor, targets: Targets, scores: Tensor) -> Tensor:
        rows = index.cpu().numpy()
        tokens = torch.from_numpy(self.tokens[rows].astype(np.int64)).to(scores.device)
        known = torch.from_numpy(self.logp[rows]).to(scores.device)
        return masked_mean(KeptPredictions.of(known, tokens).kl(scores), targets.wanted)


def masked_mean(values: Tensor, wanted: Tensor) -> Tensor:
    """Mean of values (B, P) where ``wanted`` (B, P)."""
    keep = wanted.to(values)
    return (values * keep).sum() / keep.sum()


def store_parent(
    run: Runner,
    batches: Callable[[int, int], tuple[Tensor, Targets]],
    blocks: int,
    top_k: int,
    folder: Path,
    *,
    batch_blocks: int = 8,
    progress: Callable[[int, int], None] = no_progress,
) -> StoredParent:
    """Run the parent over ``blocks`` blocks, once; what a killed process has written is written again.

    ``batches(start, stop)``: ids (B, T) and targets of these blocks, with the same number of places P in all.
    ``folder`` gets ``tokens.npy`` and ``logp.npy``; the second appears last.
    """
    if not (folder / "logp.npy").is_file():
        _write(run, batches, blocks, top_k, folder, batch_blocks, progress)
    files = (folder / name for name in ("tokens.npy", "logp.npy"))
    tokens, logp = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
    return StoredParent(tokens, logp)


def _write(
    run: Runner,
    batches: Callable[[int, int], tuple[Tensor, Targets]],
    blocks: int,
    top_k: int,
    folder: Path,
    batch_blocks: int,
    progress: Callable[[int, int], None],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = {name: folder / f".{name}.partial" for name in ("tokens", "logp")}
    arrays: dict[str, NDArray[np.generic]] = {}
    for start in range(0, blocks, batch_blocks):
        ids, targets = batches(start, min(start + batch_blocks, blocks))
        logp = targets.of(run(ids, torch.ones_like(ids, dtype=torch.bool))).log_softmax(-1)
        best, tokens = logp.topk(min(top_k, logp.shape[-1]), dim=-1)
        if not arrays:
            shape = (blocks, *best.shape[1:])
            arrays["tokens"] = open_memmap(aside["tokens"], "w+", np.int32, shape)
            arrays["logp"] = open_memmap(aside["logp"], "w+", np.float32, shape)
        stop = start + len(ids)
        arrays["tokens"][start:stop] = tokens.to(torch.int32).cpu().numpy()
        arrays["logp"][start:stop] = best.float().cpu().numpy()
        progress(stop, blocks)
    arrays.clear()  # writes what is still in memory
    for name, path in aside.items():
        path.replace(folder / f"{name}.npy")

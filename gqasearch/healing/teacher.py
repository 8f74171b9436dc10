"""What the student learns from: the parent's distribution at every target, computed beside it or read from disk."""

from __future__ import annotations

import os
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
from gqasearch.errors import UserError
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

    ``tokens`` (N, P, K) int32, ``logp`` (N, P, K) float32, ``blocks`` (N,): the number of each block, rising. The KL
    is a lower bound: what happens within the rest is not seen.
    """

    tokens: NDArray[np.int32]
    logp: NDArray[np.float32]
    blocks: NDArray[np.int64]

    def kl(self, index: Tensor, ids: Tensor, targets: Targets, scores: Tensor) -> Tensor:
        rows = np.searchsorted(self.blocks, index.cpu().numpy())
        tokens = torch.from_numpy(self.tokens[rows].astype(np.int64)).to(scores.device)
        known = torch.from_numpy(self.logp[rows]).to(scores.device)
        return masked_mean(KeptPredictions.of(known, tokens).kl(scores), targets.wanted)


def masked_mean(values: Tensor, wanted: Tensor) -> Tensor:
    """Mean of values (B, P) where ``wanted`` (B, P)."""
    keep = wanted.to(values)
    return (values * keep).sum() / keep.sum()


def store_parent(
    run: Runner,
    read: Callable[[NDArray[np.int64]], tuple[Tensor, Targets]],
    blocks: NDArray[np.int64],
    top_k: int,
    folder: Path,
    *,
    batch_blocks: int = 8,
    progress: Callable[[int, int], None] = no_progress,
) -> StoredParent:
    """Run the parent over ``blocks`` (N,), rising numbers, once; what a killed process has written is written again.

    ``read(numbers)``: ids (B, T) and targets of these blocks, with the same number of places P in all.
    ``folder`` gets ``tokens.npy`` and ``logp.npy``; the second appears last.
    """
    if not (folder / "logp.npy").is_file():
        _write(run, read, blocks, top_k, folder, batch_blocks, progress)
    files = (folder / name for name in ("tokens.npy", "logp.npy"))
    tokens, logp = (np.load(file, mmap_mode="r", allow_pickle=False) for file in files)
    return StoredParent(tokens, logp, blocks)


def _write(
    run: Runner,
    read: Callable[[NDArray[np.int64]], tuple[Tensor, Targets]],
    blocks: NDArray[np.int64],
    top_k: int,
    folder: Path,
    batch_blocks: int,
    progress: Callable[[int, int], None],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = {name: folder / f".{name}.partial" for name in ("tokens", "logp")}
    arrays: dict[str, NDArray[np.generic]] = {}
    for start in range(0, len(blocks), batch_blocks):
        ids, targets = read(blocks[start : start + batch_blocks])
        logp = targets.of(run(ids, torch.ones_like(ids, dtype=torch.bool))).log_softmax(-1)
        best, tokens = logp.topk(min(top_k, logp.shape[-1]), dim=-1)
        if not arrays:
            shape = (len(blocks), *best.shape[1:])
            arrays["tokens"] = _reserved(aside["tokens"], np.int32, shape)
            arrays["logp"] = _reserved(aside["logp"], np.float32, shape)
        stop = start + len(ids)
        arrays["tokens"][start:stop] = tokens.to(torch.int32).cpu().numpy()
        arrays["logp"][start:stop] = best.float().cpu().numpy()
        progress(stop, len(blocks))
    arrays.clear()  # writes what is still in memory
    for name, path in aside.items():
        path.replace(folder / f"{name}.npy")


def _reserved(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """A new array on disk that has all of its room: writing into a mapped file on a full disk ends the process."""
    array: NDArray[np.generic] = open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                path.unlink()
                raise UserError(f"cannot write {path}: {error.strerror or error}") from None
    return array

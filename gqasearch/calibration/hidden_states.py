"""What enters a decoder layer, batch by batch of a text: in memory where it fits, else in files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Bytes of hidden states that one stream of text may take in memory.
ROOM = 2**26
COMPLETE = "complete"


class TensorFiles(Sequence[Tensor]):
    """Tensors, kept in memory up to ``room`` bytes and one file of ``folder`` each from there on.

    Files are read whole: pages of a mapped file would count as this process's memory. ``device``: where they come back
    to.
    """

    def __init__(self, folder: Path, room: int = ROOM, device: torch.device | str = "cpu") -> None:
        self.folder, self._room, self._device = folder, room, device
        self._kept: list[Tensor | tuple[torch.dtype, torch.Size]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def append(self, tensor: Tensor) -> None:
        if tensor.nbytes <= self._room:
            self._room -= tensor.nbytes
            self._kept.append(tensor.clone() if _is_part(tensor) else tensor)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        values = tensor.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy()
        with self._path(len(self)).open("wb") as file:  # numpy's tofile says nothing of a full disk, or not that it is
            file.write(values.data)
        self._kept.append((tensor.dtype, tensor.shape))

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]  # no slices
        kept = self._kept[index]
        if isinstance(kept, Tensor):
            return kept
        dtype, shape = kept
        values = torch.from_numpy(np.fromfile(self._path(index % len(self)), dtype=np.uint8))
        return values.view(dtype).view(shape).to(self._device)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def complete(self) -> None:
        """Say that all are there: for a process that comes after this one."""
        (self.folder / COMPLETE).touch()

    @staticmethod
    def is_complete(folder: Path) -> bool:
        return (folder / COMPLETE).is_file()

    def reopen(self, kinds: Iterable[tuple[torch.dtype, torch.Size]]) -> None:
        """Take the files of an earlier process, of these dtypes and shapes."""
        self._kept = list(kinds)

    def remove(self) -> None:
        """Forget them all."""
        self._kept = []
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index}.bin"


def _is_part(tensor: Tensor) -> bool:
    """Whether it would keep a larger tensor in memory that it is a view of."""
    return tensor.untyped_storage().nbytes() > tensor.nbytes

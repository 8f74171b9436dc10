"""What becomes of memory that was freed: glibc keeps some for the process, and gives some back to the system."""

from __future__ import annotations

import ctypes
import sys

import torch

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
BLOCK_BYTES = 24 * 2**20


def give_back() -> None:
    """Let the system have the memory of weights that are gone.

    glibc would keep it: matrices of several sizes come and go, and its heap grows to a good part of the model.
    """
    if (trim := getattr(_LIBC, "malloc_trim", None)) is not None:
        trim(0)


def keep_freed_memory() -> None:
    """Let the process keep what one layer's call frees for the next call.

    glibc gives freed memory back above twice the largest block that was ever freed, some 10 MB after the layers alone,
    and getting it again cost a fifth of the time of a narrow model's layers. This block makes it keep 48 MiB.
    """
    torch.empty(BLOCK_BYTES, dtype=torch.uint8)

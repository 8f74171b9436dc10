"""Peaks of memory between one moment and the next, without taking them from whoever else watches this process.

Linux keeps one peak per process, which a process can reset; that takes it from ``ru_maxrss``, too, which schedulers and
/usr/bin/time report. So it is left alone: where it rose since the last moment it is the peak, and where it did not, the
largest of samples is.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread

import torch

SAMPLE_SECONDS = 0.05
STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Bytes of this process in memory now, pages of mapped files included; 0 where /proc does not tell."""
    with suppress(OSError):
        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def peak_resident_bytes() -> int:
    """The most that this process ever had; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class PeakMemory:
    """Tells the peak since it was last asked; a thread takes samples until ``close``."""

    def __init__(self) -> None:
        self._most, self._record = resident_bytes(), peak_resident_bytes()
        self._ended, self._lock = Event(), Lock()
        self._thread = Thread(target=self._watch, daemon=True, name="peak memory")
        self._thread.start()

    def take(self) -> int:
        """Bytes resident at most since the last call; a peak shorter than a sample that is no record may be missed."""
        with self._lock:  # else a sample taken before this would be counted after it
            record, now = peak_resident_bytes(), resident_bytes()
            found = record if record > self._record or not now else max(self._most, now)
            self._most, self._record = now, record
            return found

    def close(self) -> None:
        """No sample is taken after this."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            with self._lock:
                self._most = max(self._most, resident_bytes())


def take_device_peak() -> int:
    """Bytes of accelerators' memory that tensors took at most since the last call, all devices together; 0 without."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    devices = range(torch.cuda.device_count())
    found = sum(torch.cuda.max_memory_allocated(device) for device in devices)
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    return found

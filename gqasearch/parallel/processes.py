"""Plain processes: an executor of one process per worker, so that a death names its candidates and costs one worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress

import torch

from gqasearch.contract import Item, Question
from gqasearch.parallel.blueprint import Blueprint
from gqasearch.parallel.crew import Crew, Seat
from gqasearch.parallel.worker import Answer, Prepared, answer_here, prepare_here


class ProcessSeat(Seat):
    """One process. It is spawned, not forked: torch's threads do not survive a fork."""

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent)
        with _interrupts_blocked():
            self._pid = self._pool.submit(os.getpid)

    def prepare(self) -> Future[Prepared]:
        return self._pool.submit(prepare_here, self.blueprint)

    def ask(self, question: Question, items: Sequence[Item]) -> Future[Answer]:
        return self._pool.submit(answer_here, question, items)

    def close(self) -> None:
        # One that has not come up yet ends by itself; one that computes would go on for minutes.
        if self._pid.done() and self._pid.exception() is None and not self._is_broken():
            with suppress(ProcessLookupError):
                os.kill(self._pid.result(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _is_broken(self) -> bool:
        """True when the process is known to have ended: its id may be another's by now."""
        try:
            self._pool.submit(os.getpid)
        except RuntimeError:  # BrokenProcessPool is one
            return True
        return False


class ProcessCrew(Crew):
    """``count`` processes on this machine; with CUDA they take its GPUs in turn."""

    deaths = (BrokenProcessPool,)

    def __init__(self, blueprint: Blueprint, count: int) -> None:
        devices = [blueprint.device]
        if blueprint.device == "cuda":
            devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        self._plans = [blueprint.on_device(devices[index % len(devices)]) for index in range(count)]

    def seats(self) -> list[Seat]:
        return [ProcessSeat(plan) for plan in self._plans]

    def replace(self, lost: Seat) -> Seat:
        if not isinstance(lost, ProcessSeat):
            raise TypeError("not a process of this crew")
        return ProcessSeat(lost.blueprint)

    def close(self) -> None:
        """Nothing is shared."""


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started here never see Ctrl-C, which a terminal sends to all: the parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Runs in the worker: it ends when its parent does, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

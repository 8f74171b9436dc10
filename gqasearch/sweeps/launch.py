"""Workers on this machine: started, watched, replaced when they are killed, stopped by Ctrl-C."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import optuna
import torch

from gqasearch.errors import Terminated, UserError
from gqasearch.sweeps.study import Place, Standing
from gqasearch.sweeps.sweep_worker import POLL_SECONDS, work

STOP_SECONDS = 30.0  # for a worker to put its trial back
RESTARTS = 3  # of all workers together; a worker that is always killed has a reason


@dataclass
class _Process:
    process: SpawnProcess
    errors: Connection

    def message(self) -> str | None:
        """What it had to say before it ended."""
        try:
            return str(self.errors.recv()) if self.errors.poll() else None
        except EOFError:
            return None


def launch(study: optuna.Study, place: Place, workers: int, watch: Callable[[Standing], object] = bool) -> Standing:
    """Run ``workers`` processes until the study has its trials; ``watch`` is told where it stands meanwhile.

    Raises ``UserError`` with what a worker said, or when all ended early. An interrupt, SIGTERM too, stops them: what
    is written stays, and their trials wait in the queue.
    """
    threads = max(1, torch.get_num_threads() // workers) if workers > 1 else None
    running = [_start(place, threads) for _ in range(workers)]
    restarts = 0
    before = signal.signal(signal.SIGTERM, _interrupt)  # what schedulers send, and scripts to what runs behind them
    try:
        while running:
            time.sleep(POLL_SECONDS)
            watch(Standing.of(study))
            for one in [one for one in running if one.process.exitcode is not None]:
                running.remove(one)
                if (said := one.message()) is not None:
                    raise UserError(said)
                if one.process.exitcode != 0 and restarts < RESTARTS:
                    restarts += 1
                    running.append(_start(place, threads))
    finally:
        signal.signal(signal.SIGTERM, before)
        _stop(running)
    standing = Standing.of(study)
    watch(standing)
    if not standing.is_done:
        raise UserError(
            f"all workers ended early, {restarts} of them started again, with {standing.decided} of "
            f"{standing.wanted} trials done; the same command goes on"
        )
    return standing


def _interrupt(*_: Any) -> None:
    raise Terminated


def _start(place: Place, threads: int | None) -> _Process:
    context = multiprocessing.get_context("spawn")  # a forked process would share torch's threads and the connection
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(place, threads, sender))
    process.start()
    sender.close()
    return _Process(process, receiver)


def _stop(running: list[_Process]) -> None:
    for one in running:
        one.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for one in running:
        one.process.join(max(0.0, deadline - time.monotonic()))
        if one.process.is_alive():
            one.process.kill()  # its trial is found by its heartbeat
            one.process.join()

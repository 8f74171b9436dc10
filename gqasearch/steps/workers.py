"""Who evaluates the candidates of a run: this process, or workers that are given all that they need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gqasearch.calibration import CachedStatistics
from gqasearch.errors import UserError
from gqasearch.parallel import MOST, Blueprint, Evaluator, Workers, start_workers
from gqasearch.steps.workspace import Workspace


def check_workers(work: Workspace, workers: Workers, threads: int | None) -> None:
    """Refuse ``--workers`` where they would have nothing to do."""
    if threads is not None and not 1 <= threads <= MOST:
        raise UserError(f"--threads must be at least 1 and at most {MOST}, got {threads}")
    if not workers.is_one_process and not _spread(work):
        raise UserError(
            "--workers spreads fitness functions that run the model (kl, healed-kl, perplexity); "
            f"{', '.join(work.fitnesses)} is computed from weights or statistics, in this process: leave --workers out"
        )


def threads_of(workers: Workers, threads: int | None) -> int:
    """CPU threads of every worker: those asked for, or OMP_NUM_THREADS, or this machine's cores shared out.

    On Ray, whose machines may have any number of cores, one where neither says more.
    """
    if threads is not None:
        return threads
    if workers.is_one_process or "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return max(1, torch.get_num_threads() // (workers.count or 1)) if workers.address is None else 1


@contextmanager
def evaluator_of(work: Workspace, workers: Workers, threads: int) -> Iterator[Evaluator | None]:
    """Workers that hold this run's fitness functions, ended with the block; None where there is one process."""
    if workers.is_one_process:
        yield None
        return
    work.progress.stage("workers")
    with start_workers(workers, blueprint_of(work, threads)) as evaluator:
        yield evaluator


def blueprint_of(work: Workspace, threads: int) -> Blueprint:
    """What workers need for the fitness functions of this run that run the model."""
    parent, config = work.parent, work.config
    if parent.directory is None:
        raise UserError(f"model {parent.id} is in memory only; workers need its folder")
    statistics = work.statistics if "statistics" in work.needs() else None
    return Blueprint(
        fitnesses={name: work.fitnesses[name] for name in _spread(work)},
        merge=work.merge,
        refinement=work.refinement,
        model_id=parent.id,
        model_folder=parent.directory,
        revision=parent.revision,
        dtype=config.dtype,
        device=config.device,
        search_blocks=work.blocks("search"),
        calibration_blocks=work.blocks("calibration"),
        statistics=statistics if isinstance(statistics, CachedStatistics) else None,
        batch_blocks=config.batch_blocks,
        threads=threads,
        separate_kv=config.separate_kv,
        kv=work.kv,
    )


def _spread(work: Workspace) -> list[str]:
    return [name for name, fitness in work.fitnesses.items() if fitness.needs == "forward"]

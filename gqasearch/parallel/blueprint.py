"""All that a worker builds its fitness functions from: plain data and two folders, so that it can be sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from gqasearch.calibration import CachedStatistics, Statistics, TokenBlocks, load_or_collect
from gqasearch.fitness import Fitness, FitnessContext, PreparedFitness
from gqasearch.merging import Merge
from gqasearch.models import load_parent
from gqasearch.refining import Refinement
from gqasearch.rounding import KVFormat


@dataclass(frozen=True)
class Blueprint:
    """``fitnesses`` and what their context holds.

    Texts are sent as the tokens that the parent process cut, and statistics as it gathered them (None where nothing
    of the run needs any), so that no worker can differ in either. ``model_id``: how the model was asked for;
    ``threads``: of every worker.
    """

    fitnesses: dict[str, Fitness]
    merge: Merge
    refinement: Refinement
    model_id: str
    model_folder: Path
    revision: str
    dtype: str
    device: str
    search_blocks: TokenBlocks
    calibration_blocks: TokenBlocks
    statistics: CachedStatistics | None
    batch_blocks: int
    threads: int
    separate_kv: bool = False
    kv: KVFormat | None = None

    def in_folders(self, model: Path, statistics: Path | None) -> Blueprint:
        """The same, its files elsewhere."""
        moved = None
        if self.statistics is not None and statistics is not None:
            moved = replace(self.statistics, folder=statistics)
        return replace(self, model_folder=model, statistics=moved)

    def on_device(self, device: str) -> Blueprint:
        """The same, run on another device."""
        return replace(self, device=device)

    def prepare(self) -> dict[str, PreparedFitness]:
        """Load the model and bind every fitness to it."""
        torch.set_num_threads(self.threads)
        loaded = load_parent(str(self.model_folder), dtype=getattr(torch, self.dtype), device=self.device)
        parent = replace(loaded, id=self.model_id, revision=self.revision)

        def collect() -> Statistics:
            if self.statistics is not None:
                return self.statistics
            return load_or_collect(parent, self.calibration_blocks, batch_blocks=self.batch_blocks)

        load_statistics: Callable[[], Statistics] = cache(collect)
        context = FitnessContext(
            parent=parent,
            merge=self.merge,
            load_statistics=load_statistics,
            load_search_blocks=lambda: self.search_blocks,
            load_calibration_blocks=lambda: self.calibration_blocks,
            refinement=self.refinement,
            separate_kv=self.separate_kv,
            kv=self.kv,
        )
        return {name: fitness.prepare(context) for name, fitness in self.fitnesses.items()}

"""What the sections share: their options, and a workspace with a searched grouping in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gqasearch.config import build_config
from gqasearch.grouping import Grouping
from gqasearch.steps import Workspace
from gqasearch.steps.search import begun_search

T = TypeVar("T")

# Texts of a quick version.
QUICK = {"calibration_tokens": 1024, "search_tokens": 8192, "evaluation_tokens": 1024, "block_length": 64}


@dataclass(frozen=True)
class Options:
    """What the command line says. ``quick``: a small version, to try it; its figures mean nothing.

    ``results``: the folder of the CSV files, None where nothing is to be written. ``fresh``: what is in them is
    measured again. ``variants``: of refinements, those to measure; all if there are none.
    """

    model: str
    ratios: tuple[float, ...]
    rows: tuple[str, ...]
    seeds: int
    workers: int
    output_dir: Path
    quick: bool = False
    results: Path | None = None
    fresh: bool = False
    variants: tuple[str, ...] = ()


def workspace(options: Options, **settings: Any) -> Workspace:
    """The model and the texts of a run with these settings, under a quick version's limits where that is asked for."""
    quick = QUICK if options.quick else {}
    return Workspace(build_config({"model": options.model, **settings, **quick}))


def searched(work: Workspace) -> Grouping:
    """The grouping that a run of this workspace would find."""
    with begun_search(work) as search:
        *_, last = search.generations()
    return last.best.grouping


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the seconds of processor time it took, of all threads."""
    started = time.process_time()
    found = function()
    return found, time.process_time() - started

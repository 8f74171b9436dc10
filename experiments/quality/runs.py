"""The runs behind the table: ordinary run folders, one per row, KV ratio and seed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gqasearch.cli.messages import quiet_libraries
from gqasearch.config import RunConfig, build_config
from gqasearch.run import RunFolder, run
from gqasearch.run.evaluate import CONVERTED
from gqasearch.run.folder import read_json

RATIOS = (0.75, 0.5, 0.25)

# Row -> what differs from the defaults. All layers keep the same number of groups unless ``uneven``.
ROWS: dict[str, dict[str, Any]] = {
    "neighbour, mean": {"method": "neighbour", "merge": "mean"},
    "QCQA-AC": {"method": "qcqa-ac"},
    "neighbour, aligned": {"method": "neighbour", "merge": "aligned-renorm"},
    "searched, aligned": {"merge": "aligned-renorm"},
    "split by errors, aligned": {"merge": "aligned-renorm", "uneven": True},
    "whole model, aligned": {"merge": "aligned-renorm", "uneven": True, "method": "staged", "objectives": ["kl"]},
    "neighbour, optimal": {"method": "neighbour", "refine": "none"},
    "even": {},
    "split by errors": {"uneven": True},
    "whole model": {"uneven": True, "method": "staged", "objectives": ["kl"]},
}

# Rows in which nothing is drawn.
WITHOUT_SEED = ("neighbour, mean", "neighbour, aligned", "neighbour, optimal")


@dataclass(frozen=True)
class Cell:
    """One run."""

    row: str
    ratio: float
    seed: int

    def config(self, model: str) -> RunConfig:
        """Its settings; the seed is the search's and the refinement's."""
        settings = {"model": model, "kv_ratio": self.ratio, "seed": self.seed, **ROWS[self.row]}
        if settings.get("merge", "optimal") == "optimal" and settings.get("refine") is None:
            settings |= {"refine": "descent", "refine_parameters": {"seed": self.seed}}
        return build_config({**settings, "baseline": False, "materialize": False})

    def folder(self, output_dir: Path) -> Path:
        """Where its run is."""
        name = self.row.replace(", ", "-").replace(" ", "-").lower()
        return output_dir / f"ratio-{self.ratio:g}" / name / f"seed-{self.seed}"


def cells(rows: list[str], ratios: list[float], seeds: int) -> Iterator[Cell]:
    """Every run, seeds last, so that a table with few seeds is there early."""
    for seed in range(seeds):
        for ratio in ratios:
            yield from (Cell(row, ratio, seed) for row in rows if seed == 0 or row not in WITHOUT_SEED)


def perform(cell: Cell, model: str, output_dir: Path, threads: int) -> Cell:
    """Make the run, unless it is there."""
    torch.set_num_threads(threads)
    quiet_libraries(0)
    run(cell.config(model), cell.folder(output_dir))
    return cell


def perform_all(todo: list[Cell], model: str, output_dir: Path, workers: int) -> Iterator[Cell]:
    """Every run, ``workers`` at a time on an equal share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(perform, cell, model, output_dir, threads) for cell in todo]
        for future in waiting:
            yield future.result()


def record(cell: Cell, output_dir: Path) -> dict[str, Any]:
    """What one run measured."""
    folder = RunFolder(cell.folder(output_dir))
    metrics = read_json(folder.metrics)
    result, grouping = metrics["results"][CONVERTED], read_json(folder.grouping)
    return {
        "row": cell.row,
        "ratio": cell.ratio,
        "seed": cell.seed,
        "kl": result["kl"],
        "perplexity": result["perplexity"],
        "parent_perplexity": metrics["parent"]["perplexity"],
        "kv_heads": grouping["kv_heads_total"],
        "groups": " ".join(str(len(layer["groups"])) for layer in grouping["layers"]),
        "search_seconds": metrics["seconds"]["search"],
        "convert_seconds": metrics["seconds"]["load"],
    }


def measure(
    rows: list[str], ratios: list[float], seeds: int, model: str, output_dir: Path, workers: int
) -> pd.DataFrame:
    """One line per run."""
    todo = list(cells(rows, ratios, seeds))
    found = []
    for cell in perform_all(todo, model, output_dir, workers):
        found.append(record(cell, output_dir))
        print(
            f"{len(found)}/{len(todo)}  {cell.ratio:g}  {cell.row}  seed {cell.seed}: KL {found[-1]['kl']:.4f}",
            flush=True,
        )
    return pd.DataFrame(found)

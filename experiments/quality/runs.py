"""The runs behind the table: ordinary run folders, one per row, KV ratio and seed."""

from __future__ import annotations

import os
import traceback
from collections.abc import Collection, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.quality.bench import Options
from gqasearch.cli.messages import quiet_libraries
from gqasearch.config import RunConfig, build_config
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_file
from gqasearch.run import RunFolder, run
from gqasearch.steps import ProcessCache
from gqasearch.steps.measure import CONVERTED

RATIOS = (0.75, 0.5, 0.25)
FILE = "table.csv"

# A search on the whole model, of a length meant for ten minutes on 2 cores.
WHOLE = {"uneven": True, "method": "staged", "objectives": ["kl"], "method_parameters": {"generations": 15}}

# Row -> what differs from the defaults. All layers keep the same number of groups unless ``uneven``.
ROWS: dict[str, dict[str, Any]] = {
    "neighbour, mean": {"method": "neighbour", "merge": "mean"},
    "QCQA-AC": {"method": "qcqa-ac"},
    "neighbour, aligned": {"method": "neighbour", "merge": "aligned-renorm"},
    "searched, aligned": {"merge": "aligned-renorm"},
    "split by errors, aligned": {"merge": "aligned-renorm", "uneven": True},
    "whole model, aligned": {"merge": "aligned-renorm", **WHOLE},
    "neighbour, optimal": {"method": "neighbour", "refine": "none"},
    "even": {},
    "split by errors": {"uneven": True},
    "whole model": WHOLE,
}

# Rows that one seed is enough for. In the first three nothing is drawn. The others' group errors cost ten times ours;
# they are the baseline, of which the best counts.
ONE_SEED = (
    "neighbour, mean",
    "neighbour, aligned",
    "neighbour, optimal",
    "searched, aligned",
    "split by errors, aligned",
    "whole model, aligned",
)
LONGEST = "whole model"

# Column of the file -> what its values are.
COLUMNS: dict[str, type] = {
    "model": str,
    "row": str,
    "ratio": float,
    "seed": int,
    "kl": float,
    "perplexity": float,
    "parent_perplexity": float,
    "kv_heads": int,
    "groups": str,
    "search_seconds": float,
    "convert_seconds": float,
}

# Of every worker: group errors of aligned merges take most of an hour for a model, and six rows read them.
_CACHE = ProcessCache()

Record = dict[str, Any]  # what one run measured, by column
Key = tuple[str, str, float, int]  # model, row, ratio, seed


@dataclass(frozen=True)
class Cell:
    """One run."""

    row: str
    ratio: float
    seed: int

    def __str__(self) -> str:
        return f"{self.row} at {self.ratio:g}, seed {self.seed}"

    def config(self, model: str) -> RunConfig:
        """Its settings; the seed is the search's and the refinement's."""
        shared = {"model": model, "kv_ratio": self.ratio, "seed": self.seed, "baseline": False, "materialize": False}
        config = build_config({**shared, **ROWS[self.row]})
        if config.merge != "optimal" or config.refine is not None:  # what a method's preset says counts, too
            return config
        return config.model_copy(update={"refine": "descent", "refine_parameters": {"seed": self.seed}})

    def folder(self, output_dir: Path) -> Path:
        """Where its run is."""
        name = self.row.replace(", ", "-").replace(" ", "-").lower()
        return output_dir / f"ratio-{self.ratio:g}" / name / f"seed-{self.seed}"


def cells(rows: Collection[str], ratios: Collection[float], seeds: int) -> Iterator[Cell]:
    """Every run, seeds last, so that a table with few seeds is there early.

    The longest of a seed come first: a worker that began one last would end long after the others.
    """
    for seed in range(seeds):
        mine = [Cell(row, ratio, seed) for ratio in ratios for row in rows if seed == 0 or row not in ONE_SEED]
        yield from sorted(mine, key=lambda cell: cell.row != LONGEST)


def perform(cell: Cell, model: str, output_dir: Path, threads: int) -> Record:
    """Make the run, unless it is there; what it measured."""
    torch.set_num_threads(threads)
    quiet_libraries(0)
    run(cell.config(model), cell.folder(output_dir), cache=_CACHE)
    return record(cell, model, output_dir)


def perform_all(todo: list[Cell], model: str, output_dir: Path, workers: int) -> Generator[Record, None, None]:
    """Every run as it ends, ``workers`` at a time on an equal share of the cores.

    A run that fails does not stop the others; ``UserError`` at the end names all that did.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    failed: dict[str, list[Cell]] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(perform, cell, model, output_dir, threads): cell for cell in todo}
        try:
            for future in as_completed(waiting):
                error = future.exception()
                if isinstance(error, Exception):
                    _note(failed, waiting[future], error)
                else:
                    yield future.result()
        finally:  # whoever stops us does not wait for the runs that have not begun
            pool.shutdown(wait=False, cancel_futures=True)
    if failed:
        lines = [f"{'; '.join(map(str, failures))}: {message}" for message, failures in failed.items()]
        raise UserError("\n".join([f"{sum(map(len, failed.values()))} of {len(todo)} runs failed", *lines]))


def _note(failed: dict[str, list[Cell]], cell: Cell, error: Exception) -> None:
    """Say at once what failed; a dead worker fails all that wait with the same message, which is kept once."""
    message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    print(f"failed: {cell}: {message}", flush=True)
    if message not in failed and not isinstance(error, UserError):
        traceback.print_exception(error)
    failed.setdefault(message, []).append(cell)


def record(cell: Cell, model: str, output_dir: Path) -> Record:
    """What one run measured."""
    folder = RunFolder(cell.folder(output_dir))
    metrics = read_json(folder.metrics)
    result, grouping = metrics["results"][CONVERTED], read_json(folder.grouping)
    return {
        "model": model,
        "row": cell.row,
        "ratio": cell.ratio,
        "seed": cell.seed,
        "kl": result["kl"],
        "perplexity": result["perplexity"],
        "parent_perplexity": metrics["parent"]["perplexity"],
        "kv_heads": grouping["kv_heads_total"],
        "groups": " ".join(str(len(layer["groups"])) for layer in grouping["layers"]),
        "search_seconds": metrics["seconds"]["search"],
        "convert_seconds": metrics["seconds"].get("refine", 0.0) + metrics["seconds"]["convert"],
    }


def measure(options: Options) -> pd.DataFrame:
    """One line per run: all that the file holds, this command line's among them.

    Runs that are in the file are not made again unless ``fresh``. Every run is written when it ends.
    """
    path = None if options.results is None else options.results / FILE
    known = _known(path)
    asked = list(cells(options.rows, options.ratios, options.seeds))
    todo = [cell for cell in asked if options.fresh or (options.model, cell.row, cell.ratio, cell.seed) not in known]
    if len(todo) < len(asked):
        print(f"{len(asked) - len(todo)} of {len(asked)} runs are in {path}", flush=True)
    found: dict[Key, Record] = {}
    with closing(perform_all(todo, options.model, options.output_dir, options.workers)) as done:
        for one in done:
            found[_key(one)] = one
            cell = f"{one['ratio']:g}  {one['row']}  seed {one['seed']}"
            print(f"{len(found)}/{len(todo)}  {cell}: KL {one['kl']:.4f}", flush=True)
            known |= _known(path) | found  # another process may have added its own
            if path is not None:
                write_file(path, ordered(known.values()).to_csv(index=False), overwrite=True)
    return ordered(known.values())


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a file; ``UserError`` names it and the column that is not as it should be."""
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    for name, kind in COLUMNS.items():
        if name not in rows:
            raise UserError(f"{path} is damaged: it has no column {name}")
        try:
            rows[name] = rows[name].astype(kind)
        except ValueError as error:
            raise UserError(f"{path} is damaged, column {name}: {error}") from None
    return rows


def ordered(records: Iterable[Record]) -> pd.DataFrame:
    """One line per record, in an order that does not depend on when and by which command each was made."""
    names = list(ROWS)

    def place(one: Record) -> tuple[Any, ...]:
        row = one["row"]  # one that is no longer made comes last
        return one["model"], -one["ratio"], names.index(row) if row in ROWS else len(names), row, one["seed"]

    lines = sorted(records, key=place)
    return pd.DataFrame(lines, columns=None if lines else list(COLUMNS))


def _known(path: Path | None) -> dict[Key, Record]:
    if path is None or not path.exists():
        return {}
    records: list[Any] = read_rows(path).to_dict("records")
    return {_key(one): one for one in records}


def _key(one: Record) -> Key:
    return one["model"], one["row"], one["ratio"], one["seed"]

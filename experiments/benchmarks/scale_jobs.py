"""What the scale benchmark measures, one row at a time: whole jobs through the command line, and forward passes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.benchmarks.apart import DONE, Limits, measured_apart
from experiments.benchmarks.scale_models import SHAPES, SMOLLM2, make_shape, smollm2, write_topics
from experiments.benchmarks.trees import Tree
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_file

THIS, BASELINE, FORWARD = "this tree", "baseline", "forward pass"
EMBEDDED = "embedded"
TEXT = "pydoc-topics.txt"
# How a run ends that somebody stopped: Ctrl-C or SIGTERM, by its own hand or not.
STOPPED = ("signal 2", "signal 15", "exit 130", "exit 143")
# What a row is found by; a row of another commit is replaced.
KEY = ("model", "layers", "calibration_tokens", "evaluation_tokens", "dtype", "flags", "threads", "what", "repeat")
# In metrics.json -> the beginning of a column's name, before the stage's.
STAGE_FIGURES = {"seconds": "seconds", "cpu_seconds": "cpu", "peak_bytes": "peak"}

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A run: ``layers`` of a model of ``scale_models`` or of "embedded", which has the layers that it has.

    ``flags``: further ones of ``gqasearch search``.
    """

    model: str
    layers: int
    calibration_tokens: int
    evaluation_tokens: int
    dtype: str
    flags: str = ""

    @property
    def text(self) -> str:
        """Its calibration text."""
        return TEXT if self.model == SMOLLM2 else EMBEDDED

    def __str__(self) -> str:
        return f"{self.model}, {self.layers} layers, {self.calibration_tokens:,} tokens"


@dataclass(frozen=True)
class Bench:
    """Where and how rows are measured. ``model``: a folder to take for SmolLM2's; ``log``: where whole outputs stay."""

    work: Path
    threads: int
    limits: Limits
    model: Path | None = None
    log: Path | None = None
    made: dict[str, str] = field(default_factory=dict)

    def model_of(self, case: Case) -> str:
        """The model's folder, made where it is not there, or "embedded"."""
        name = f"{case.model} {case.layers}"
        if name not in self.made:
            self.made[name] = self._make(case)
        return self.made[name]

    def _make(self, case: Case) -> str:
        if case.model in SHAPES:
            return str(make_shape(case.model, case.layers, self.work / "models"))
        if case.model == SMOLLM2:
            return str(self.model or smollm2(self.work / "models" / SMOLLM2))
        return EMBEDDED

    def folder(self, case: Case) -> Path:
        """An empty one to run in, which has the model and the text under names that say no more than that."""
        folder = self.work / "job"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if (model := self.model_of(case)) != EMBEDDED:
            (folder / case.model).symlink_to(Path(model).resolve())
        if case.text == TEXT:
            write_topics(folder / TEXT)
        return folder


def measure_job(bench: Bench, case: Case, tree: Tree, what: str, repeat: int) -> Row:
    """One run of ``gqasearch search`` on a cold cache, as a row."""
    folder = bench.folder(case)
    command = [
        *(str(tree.python), "-m", "gqasearch", "search", "--model", case.model, "--output-dir", "run"),
        *("--calibration-tokens", str(case.calibration_tokens), "--evaluation-tokens", str(case.evaluation_tokens)),
        *("--dtype", case.dtype, "--calibration-text", case.text, *case.flags.split()),
    ]
    variables = tree.environment(bench.threads, GQASEARCH_CACHE=str(folder / "cache"))
    found = measured_apart(command, folder, variables, folder / "log.txt", bench.limits)
    if bench.log is not None:
        bench.log.mkdir(parents=True, exist_ok=True)
        name = f"{case.model}-{case.layers}-{what.replace(' ', '-')}.txt"
        write_file(bench.log / name, f"{' '.join(command[1:])}\n{(folder / 'log.txt').read_text()}", overwrite=True)
    figures = {"outcome": found.outcome, "wall": found.wall, "cpu": found.cpu, "peak": found.peak}
    row = {**_key(bench, case, what, repeat), "commit": tree.commit, **figures, **_of_run(folder / "run")}
    shutil.rmtree(folder)
    return row


def measure_forward(bench: Bench, case: Case, tree: Tree, repeat: int) -> Row:
    """The plain forward pass of the same calibration text, as a row; its CPU seconds are those of the pass alone."""
    folder = bench.folder(case)
    command = [str(tree.python), "-m", "experiments.benchmarks.forward", case.model]
    command += [str(case.calibration_tokens), case.dtype, case.text]
    log = folder / "log.txt"
    found = measured_apart(command, folder, tree.environment(bench.threads), log, bench.limits)
    seconds = json.loads(log.read_text().splitlines()[-1])["cpu"] if found.outcome == DONE else float("nan")
    shutil.rmtree(folder)
    figures = {"outcome": found.outcome, "wall": found.wall, "cpu": seconds, "peak": found.peak}
    return {**_key(bench, case, FORWARD, repeat), "commit": "", **figures}


def _key(bench: Bench, case: Case, what: str, repeat: int) -> Row:
    return {
        "model": case.model,
        "layers": case.layers,
        "calibration_tokens": case.calibration_tokens,
        "evaluation_tokens": case.evaluation_tokens if what != FORWARD else 0,
        "dtype": case.dtype,
        "flags": case.flags if what != FORWARD else "",
        "threads": bench.threads,
        "what": what,
        "repeat": repeat,
    }


def _of_run(folder: Path) -> Row:
    """What a run folder says: KL; by stage seconds and, of commits that note it, CPU seconds and peaks in bytes; and
    what was planned of them.
    """
    if not (folder / "metrics.json").is_file():
        return _unfinished(folder / "state" / "stages.json")
    record = read_json(folder / "metrics.json")
    found: Row = {"kl": record["results"]["converted"]["kl"]}
    for key, words in STAGE_FIGURES.items():
        found |= {f"{words}: {name}": value for name, value in record.get(key, {}).items() if name != "all"}
        planned = (record.get("planned") or {}).get(key, {})
        found |= {f"planned {words}: {name}": value for name, value in planned.items()}
    return found


def _unfinished(stages: Path) -> Row:
    """The same of a run that was stopped, as far as it went."""
    found: Row = {}
    for name, taken in (read_json(stages) if stages.is_file() else {}).items():
        kinds = (("seconds", "seconds"), ("cpu", "cpu_seconds"), ("peak", "peak"))
        found |= {f"{words}: {name}": taken[key] for words, key in kinds}
    return found


@dataclass(frozen=True)
class Rows:
    """The rows in a CSV file; one that is there is not measured again unless ``again``."""

    path: Path
    again: bool

    def read(self) -> pd.DataFrame:
        """All rows; none where there is no file yet."""
        if not self.path.is_file():
            return pd.DataFrame(columns=[*KEY, "commit"])
        return read_rows(self.path)

    def has(self, key: Row, commit: str) -> bool:
        """Whether the row of this commit is there."""
        if self.again:
            return False
        rows = self.read()
        return bool((_same(rows, key) & (rows["commit"] == commit)).any())

    def add(self, row: Row) -> None:
        """Write it down, in place of what was measured of the same before."""
        rows = self.read()
        kept = rows[~_same(rows, row)]
        added = pd.DataFrame([row])
        rows = pd.concat([kept, added], ignore_index=True) if len(kept) else added
        rows = rows.sort_values(list(KEY), kind="stable")
        stages = sorted(column for column in rows.columns if ": " in column)
        rows = rows[[column for column in rows.columns if column not in stages] + stages]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, rows.to_csv(index=False, float_format="%.6g"), overwrite=True)


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a file; words that are not there are ""."""
    rows = pd.read_csv(path, dtype={"flags": str, "commit": str, "outcome": str})
    return rows.fillna({"flags": "", "commit": "", "outcome": ""})


def _same(rows: pd.DataFrame, key: Row) -> pd.Series[bool]:
    found = pd.Series(data=True, index=rows.index)
    for name in KEY:
        found &= rows[name] == key[name]
    return found


def measure_case(bench: Bench, case: Case, trees: Mapping[str, Tree], repeats: int, rows: Rows) -> None:
    """Every row of a case that is not there: what is in ``trees`` in turn (A B A B ...); FORWARD is the plain pass."""
    for repeat in range(repeats):
        for what, tree in trees.items():
            plain = what == FORWARD
            if rows.has(_key(bench, case, what, repeat), "" if plain else tree.commit):
                continue
            measured = measure_forward if plain else partial(measure_job, what=what)
            row = measured(bench, case, tree, repeat=repeat)
            if row["outcome"].startswith(STOPPED):
                raise UserError(f"{case}, {what}: stopped from outside ({row['outcome']}); the same command goes on")
            rows.add(row)
            words = f"{row['cpu']:,.1f} CPU s, {row['peak'] / 1e9:.2f} GB, {row['outcome']}"
            print(f"{case}, {what}, {repeat + 1}/{repeats}: {words}", flush=True)

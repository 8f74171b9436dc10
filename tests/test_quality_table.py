"""The runs behind the quality table, kept in its file from one session to the next."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pandas as pd
import pytest

from experiments.quality import __main__ as command
from experiments.quality import runs
from experiments.quality.bench import Options
from experiments.quality.summary import summarise
from gqasearch.errors import UserError


def a_record(model: str, row: str, ratio: float, seed: int, kl: float = 0.1) -> runs.Record:
    values = dict.fromkeys(runs.COLUMNS, 1.5) | {"kv_heads": 8, "groups": "4"}
    return values | {"model": model, "row": row, "ratio": ratio, "seed": seed, "kl": kl}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """Two rows at two ratios, two seeds. Workers are threads, so that a test can put its own ``perform`` in place."""
    monkeypatch.setattr(runs, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    return Options("a", (0.5, 0.25), ("even", "whole model"), 2, 1, tmp_path / "runs", results=tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[runs.Cell]:
    """The cells that were run, in order."""
    cells: list[runs.Cell] = []

    def perform(cell: runs.Cell, model: str, *_: Any) -> runs.Record:
        cells.append(cell)
        return a_record(model, cell.row, cell.ratio, cell.seed, kl=0.1 + 0.2)

    monkeypatch.setattr(runs, "perform", perform)
    return cells


def keys(path: Path) -> list[runs.Key]:
    return [runs._key(one) for one in runs.read_rows(path / runs.FILE).to_dict("records")]


def keep(path: Path, *records: runs.Record) -> None:
    (path / runs.FILE).write_text(pd.DataFrame(records).to_csv(index=False))


def test_table_cells_have_seeds_last_and_the_longest_first() -> None:
    rows = ["whole model, aligned", "even", "whole model"]
    assert [(cell.row, cell.ratio, cell.seed) for cell in runs.cells(rows, [0.5, 0.25], 2)] == [
        ("whole model", 0.5, 0),
        ("whole model", 0.25, 0),
        ("whole model, aligned", 0.5, 0),
        ("even", 0.5, 0),
        ("whole model, aligned", 0.25, 0),
        ("even", 0.25, 0),
        ("whole model", 0.5, 1),
        ("whole model", 0.25, 1),
        ("even", 0.5, 1),
        ("even", 0.25, 1),
    ]


def test_table_baselines_are_not_refined() -> None:
    """A method's preset names its merge: QCQA's is the mean, and nothing is fitted after it."""
    for row in runs.ROWS:
        config = runs.Cell(row, 0.5, 3).config("embedded")
        refined = row in ("even", "split by errors", "whole model")
        assert (config.refine == "descent") == refined, row
        assert config.refine_parameters == ({"seed": 3} if refined else {})
        assert (config.merge == "optimal") == (refined or row == "neighbour, optimal")


def test_table_rows_are_known_to_the_command_line() -> None:
    assert {*runs.ONE_SEED, runs.LONGEST} <= set(runs.ROWS)
    for row in runs.ROWS:
        runs.Cell(row, 0.5, 1).config("embedded")


def test_table_does_not_run_what_its_file_holds(asked: Options, made: list[runs.Cell], tmp_path: Path) -> None:
    keep(tmp_path, a_record("a", "even", 0.25, 0, kl=0.7), a_record("b", "even", 0.5, 0))
    rows = runs.measure(asked)
    assert len(made) == 7 and runs.Cell("even", 0.25, 0) not in made and runs.Cell("even", 0.5, 0) in made
    assert rows.set_index(["model", "row", "ratio", "seed"])["kl"]["a", "even", 0.25, 0] == 0.7
    before = (tmp_path / runs.FILE).read_bytes()
    assert runs.measure(asked).equals(rows) and len(made) == 7
    assert (tmp_path / runs.FILE).read_bytes() == before == rows.to_csv(index=False).encode()


def test_fresh_table_runs_what_its_file_holds(asked: Options, made: list[runs.Cell], tmp_path: Path) -> None:
    keep(tmp_path, a_record("a", "even", 0.25, 0, kl=0.7), a_record("b", "even", 0.5, 0, kl=0.8))
    rows = runs.measure(replace(asked, fresh=True))
    assert len(made) == 8 and len(rows) == 9
    assert set(rows[rows["model"] == "a"]["kl"]) == {0.1 + 0.2} and set(rows[rows["model"] == "b"]["kl"]) == {0.8}


@pytest.mark.usefixtures("made")
def test_table_keeps_other_rows_in_one_order(asked: Options, tmp_path: Path) -> None:
    foreign = [("b", "even", 0.5, 0), ("a", "gone", 0.5, 0), ("a", "neighbour, mean", 0.5, 0), ("a", "even", 0.3, 7)]
    keep(tmp_path, *(a_record(*key) for key in foreign))
    runs.measure(replace(asked, ratios=(0.25, 0.75), seeds=1))
    assert keys(tmp_path) == [
        ("a", "even", 0.75, 0),
        ("a", "whole model", 0.75, 0),
        ("a", "neighbour, mean", 0.5, 0),
        ("a", "gone", 0.5, 0),
        ("a", "even", 0.3, 7),
        ("a", "even", 0.25, 0),
        ("a", "whole model", 0.25, 0),
        ("b", "even", 0.5, 0),
    ]


def test_table_has_all_that_ended_when_runs_fail(
    asked: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(cell: runs.Cell, model: str, *_: Any) -> runs.Record:
        if cell.seed == 0 and cell.ratio == 0.5:
            raise UserError("no such model")
        if cell == runs.Cell("even", 0.25, 0):
            raise ValueError("a surprise")
        return a_record(model, cell.row, cell.ratio, cell.seed)

    monkeypatch.setattr(runs, "perform", perform)
    with pytest.raises(UserError) as caught:
        runs.measure(asked)
    assert str(caught.value).splitlines() == [
        "3 of 8 runs failed",
        "whole model at 0.5, seed 0; even at 0.5, seed 0: no such model",
        "even at 0.25, seed 0: ValueError: a surprise",
    ]
    assert len(keys(tmp_path)) == 5


def test_table_is_written_while_a_longer_run_goes_on(
    asked: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = Event(), runs.write_file

    def perform(cell: runs.Cell, model: str, *_: Any) -> runs.Record:
        assert cell.row != runs.LONGEST or written.wait(60), "the shorter run was kept back"
        return a_record(model, cell.row, cell.ratio, cell.seed)

    def write_and_tell(*args: Any, **keywords: Any) -> None:
        write(*args, **keywords)
        written.set()

    monkeypatch.setattr(runs, "perform", perform)
    monkeypatch.setattr(runs, "write_file", write_and_tell)
    runs.measure(replace(asked, ratios=(0.5,), seeds=1, workers=2))
    assert [row for _, row, _, _ in keys(tmp_path)] == ["even", "whole model"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("model,", "", 1), "has no column model"),
        (lambda text: "<<<<<<< HEAD\n" + text, "table.csv"),
        (lambda text: text + "=======\n", "column ratio"),
        (lambda text: text.replace("0.1,", "low,", 1), "column kl"),
        (lambda _: "", "cannot read"),
    ],
)
def test_a_damaged_table_is_named(
    asked: Options, made: list[runs.Cell], tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    keep(tmp_path, a_record("a", "even", 0.5, 0))
    path = tmp_path / runs.FILE
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message) as caught:
        runs.measure(asked)
    assert str(path) in str(caught.value) and not made


def test_table_command_writes_unless_it_is_quick(
    asked: Options, made: list[runs.Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "new" / "results"
    words = ["quality", "table", "--rows", *asked.rows, "--ratios", "0.5", "--seeds", "1", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", [*words, "--quick"])
    command.main()
    assert len(made) == len(command.QUICK_ROWS) and not results.exists()
    monkeypatch.setattr(sys, "argv", words)
    command.main()
    assert sorted(path.name for path in results.iterdir()) == ["environment.json", "table.csv"]
    assert keys(results) == [("embedded", row, 0.5, 0) for row in asked.rows]
    monkeypatch.setattr(sys, "argv", [*words, "--fresh"])
    command.main()
    assert len(made) == len(command.QUICK_ROWS) + 2 * len(asked.rows)


def test_table_is_summed_up_for_one_model_at_a_time() -> None:
    a = pd.DataFrame([a_record("a", row, 0.5, 0, kl) for row, kl in (("neighbour, mean", 0.8), ("even", 0.1))])
    b = a.assign(model="b", kl=[0.6, 0.3])
    alone, both = summarise(a), summarise(pd.concat([a, b]))
    assert "model" not in alone and alone["of mean's"].tolist() == ["1/1.0", "1/8.0"]
    assert both["model"].tolist() == ["a", "a", "b", "b"]
    assert both["of mean's"].tolist() == ["1/1.0", "1/8.0", "1/1.0", "1/2.0"]

"""Whole runs with workers: the same bits as without, also after SIGKILL and with another number of workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gqasearch.config import build_config
from gqasearch.contract import Facts
from gqasearch.errors import UserError
from gqasearch.parallel import Blueprint, Evaluator, Workers
from gqasearch.run import RunFolder, run
from gqasearch.run.search_log import failed_candidates
from tests import forked
from tests.parallel.test_evaluator import Threads

# Nothing but the search: what comes after it knows of no workers.
QUICK: dict[str, Any] = {
    "materialize": False,
    "baseline": False,
    "merge": "mean",
    "evaluation_tokens": 100,
    "uneven": True,
    "fitness_parameters": {"tokens": 1200, "refit_tokens": 200},
}
STAGED = {"offspring": 6, "generations": 3, "first_tokens": 100, "population": 3}


def history(folder: RunFolder) -> list[dict[str, Any]]:
    lines = map(json.loads, folder.history.read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def document(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(folder.grouping.read_text())
    return found


def running(pids: list[int]) -> list[int]:
    """Those that are still there, zombies left out."""

    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "Z"

    return [pid for pid in pids if state(pid) != "Z"]


def search_with_forked_workers(words: list[str], errors: Path) -> None:
    forked.fork_directly()
    forked.command(words, errors)


def wait_for(condition: Callable[[], bool], process: ForkServerProcess) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.is_alive() and time.monotonic() < deadline, "the search ended too early"
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for stray processes in /proc")
def test_killed_with_workers_and_resumed_without_gives_the_same_bits(settings: dict[str, Any], tmp_path: Path) -> None:
    values = {**settings, **QUICK, "search_tokens": 3000, "objectives": ["kl"], "refine": "outputs"}
    values |= {"method": "staged", "method_parameters": {**STAGED, "generations": 40, "patience": 40}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    flags = ["--config", str(tmp_path / "run.yaml"), "--output-dir", str(tmp_path / "killed"), "--workers", "2"]
    folder = RunFolder(tmp_path / "killed")
    process = forked.start(search_with_forked_workers, ["search", *flags, "-q"], tmp_path / "errors")
    wait_for(lambda: folder.history.is_file() and len(folder.history.read_text().splitlines()) > 3, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    forked.end(process)
    deadline = time.monotonic() + 60
    while running([int(pid) for pid in children]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) >= 2 and not running([int(pid) for pid in children]), "workers outlive their parent"
    assert not folder.grouping.exists()
    whole = run(build_config(values), tmp_path / "whole")
    resumed = run(build_config(values), tmp_path / "killed")
    assert history(resumed) == history(whole) and document(resumed) == document(whole)
    assert json.loads(resumed.state.read_text())["threads"] == int(os.environ["OMP_NUM_THREADS"])


def test_begun_alone_and_resumed_with_workers_gives_the_same_bits(settings: dict[str, Any], tmp_path: Path) -> None:
    """Evolution over two objectives, one of which no worker knows; one candidate kills whoever has it first."""
    small = {"population": 6, "offspring": 6, "generations": 6}
    values = {**settings, **QUICK, "uneven": False, "objectives": ["perplexity", "kv-ratio"]}
    values |= {"method": "evolution", "method_parameters": small}
    whole = run(build_config(values), tmp_path / "whole")

    class Stop(Exception):  # noqa: N818
        """In mid-search."""

    class Stopping:
        def stage(self, name: str, total: int | None = None) -> None:
            """Nothing."""

        def update(self, completed: int, point: Any = None, detail: str = "") -> None:
            if point is not None and point.generation == 2:
                raise Stop

    with pytest.raises(Stop):
        run(build_config(values), tmp_path / "parts", Stopping())
    with forked.for_spawned(truly=False):
        parts = run(build_config(values), tmp_path / "parts", workers="2")
    assert history(parts) == history(whole) and document(parts) == document(whole)
    assert parts.pareto.read_text() == whole.pareto.read_text()


def test_a_run_whose_every_candidate_kills_its_worker_is_an_error(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers of this run are threads that die."""

    @contextmanager
    def start(workers: Workers, blueprint: Blueprint) -> Iterator[Evaluator]:
        assert workers.count == 2 and list(blueprint.fitnesses) == ["perplexity"]
        with Evaluator(Threads(2, dooms_all=True)) as evaluator:
            evaluator.facts = {"perplexity": Facts("text", (100,))}
            yield evaluator

    monkeypatch.setattr("gqasearch.steps.workers.start_workers", start)
    values = {**settings, "merge": "mean", "objectives": ["perplexity"], "method": "neighbour"}
    with pytest.raises(UserError, match="every candidate killed its worker"):
        run(build_config(values), tmp_path / "run", workers=2)
    failed = failed_candidates(RunFolder(tmp_path / "run"))
    assert len(failed) == 1 and "killed its worker 2 times" in failed[0]


def test_workers_that_would_have_nothing_to_do_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    config = build_config(settings)
    with pytest.raises(UserError, match="merge-error is computed from weights or statistics"):
        run(config, tmp_path / "run", workers=2)
    with pytest.raises(UserError, match="--threads must be at least 1"):
        run(config, tmp_path / "run", threads=0)
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_the_threads_that_it_began_with(settings: dict[str, Any], tmp_path: Path) -> None:
    values = {**settings, **QUICK, "uneven": False, "objectives": ["perplexity"], "method": "neighbour"}
    folder = run(build_config(values), tmp_path / "run", threads=2)
    assert json.loads(folder.state.read_text())["threads"] == 2
    folder.grouping.unlink()
    with pytest.raises(UserError, match="begun with 2 threads"):
        run(build_config(values), tmp_path / "run", threads=1)
    assert run(build_config(values), tmp_path / "run").grouping.is_file()
    assert json.loads(folder.state.read_text())["threads"] == 2

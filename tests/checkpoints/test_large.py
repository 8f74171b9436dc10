"""A checkpoint that is large beside its tensors: peak memory, and the command itself interrupted."""

from __future__ import annotations

import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from experiments.benchmarks import conversion
from experiments.benchmarks.checkpoints import llama_config, make_checkpoint, random_grouping
from experiments.benchmarks.memory import CLEAR, measured_apart
from gqasearch.cli.app import app
from gqasearch.grouping_document import write_grouping
from gqasearch.models import CheckpointTensors, ModelSource
from tests import forked
from tests.checkpoints.killable import digest

SIZE = {"layers": 10, "hidden": 768, "heads": 12, "vocab": 4000}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 MB of bfloat16 in two shards in ``source``, and ``grouping.json``; the largest tensor has 6 MB."""
    folder = tmp_path_factory.mktemp("large")
    make_checkpoint(llama_config(**SIZE), folder / "source", 2)
    document = random_grouping(ModelSource(folder / "source", ""), "mean", 4)
    write_grouping(folder / "grouping.json", document)
    return folder


@pytest.mark.skipif(not CLEAR.exists(), reason="only Linux tells a process its peak so far")
def test_peak_memory_is_that_of_a_few_tensors(large: Path, tmp_path: Path) -> None:
    """Less than one shard: neither the model nor a shard is ever held."""
    headers = CheckpointTensors(large / "source").headers.values()
    largest = max(tensor.nbytes for header in headers for tensor in header.tensors.values())
    assert min(header.nbytes for header in headers) > 11 * largest
    measured = measured_apart(large / "source", large / "grouping.json", tmp_path / "out")
    assert 0 < measured["added"] < 8 * largest


def test_committed_results_can_be_shown() -> None:
    rows = pd.read_csv(conversion.RESULTS / "conversion.csv")
    assert len(conversion.summary(rows)) == len(conversion.MERGES)
    assert (rows["parameters"] > 1e9).all() and (rows["shards"] == 4).all()
    assert (rows["added at the peak, MB"] < 300).all() and (rows["equal tensors"] == 165).all()


@pytest.mark.nightly
def test_command_that_is_interrupted_and_given_again(large: Path, tmp_path: Path) -> None:
    before, out, errors = digest(large / "source"), tmp_path / "target" / "out", tmp_path / "errors"
    out.parent.mkdir()
    words = ["materialize", large / "grouping.json", "--model", large / "source", "--output-dir", out]
    for number, share, left in ((signal.SIGKILL, 0.0, 1), (signal.SIGINT, 0.4, 0)):
        process = forked.start(forked.command, words, errors)
        wait_for(process, out.parent, int(share * 150e6))
        forked.end(process, number)
        assert not out.exists()
        assert len(list(out.parent.glob(".out.partial-*"))) == left
    assert errors.read_text() == "gqasearch: stopped\n"
    assert CliRunner().invoke(app, list(map(str, words))).exit_code == 0
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert CheckpointTensors(out).headers.keys() == CheckpointTensors(large / "source").headers.keys()
    assert digest(large / "source") == before


def wait_for(process: ForkServerProcess, folder: Path, size: int) -> None:
    """Until the folder of an unfinished conversion in ``folder`` holds ``size`` bytes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.is_alive()
        # A folder of another process may be on its way out.
        files = [path for path in folder.glob(f".out.partial-*-{process.pid}/*") if path.exists()]
        if files and sum(path.stat().st_size for path in files) >= size:
            return
        time.sleep(0.001)
    raise TimeoutError(f"nothing of {size} bytes in {folder}")

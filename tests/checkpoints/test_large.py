"""A checkpoint that is large beside its tensors: peak memory, and the command itself interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments.benchmarks import conversion
from experiments.benchmarks.checkpoints import llama_config, make_checkpoint, random_grouping
from experiments.benchmarks.memory import CLEAR, measured_apart
from gqasearch.grouping_document import write_grouping
from gqasearch.models import CheckpointTensors, ModelSource
from tests.checkpoints.killable import digest

SIZE = {"layers": 20, "hidden": 768, "heads": 12, "vocab": 4000}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 MB of bfloat16 in four shards in ``source``, and ``grouping.json``; the largest tensor has 6 MB."""
    folder = tmp_path_factory.mktemp("large")
    make_checkpoint(llama_config(**SIZE), folder / "source", 4)
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


def test_command_that_is_interrupted_and_given_again(large: Path, tmp_path: Path) -> None:
    before, out = digest(large / "source"), tmp_path / "out"
    words = ["materialize", large / "grouping.json", "--model", large / "source", "--output-dir", out]
    command = [sys.executable, "-m", "gqasearch", *map(str, words)]
    for number, share, code, left in ((signal.SIGKILL, 0.0, -9, 1), (signal.SIGINT, 0.4, 130, 0)):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        wait_for(process, tmp_path, int(share * 300e6))
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        assert digest(large / "source") == before
        assert not out.exists()
        assert len(list(tmp_path.glob(".out.partial-*"))) == left
    assert errors == "gqasearch: stopped\n"
    subprocess.run(command, check=True, timeout=120)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert CheckpointTensors(out).headers.keys() == CheckpointTensors(large / "source").headers.keys()
    assert digest(large / "source") == before


def wait_for(process: subprocess.Popen[str], folder: Path, size: int) -> None:
    """Until the folder of an unfinished conversion in ``folder`` holds ``size`` bytes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        # A folder of another process may be on its way out.
        files = [path for path in folder.glob(f".out.partial-*-{process.pid}/*") if path.exists()]
        if files and sum(path.stat().st_size for path in files) >= size:
            return
        time.sleep(0.001)
    raise TimeoutError(f"nothing of {size} bytes in {folder}")

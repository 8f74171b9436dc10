"""SIGKILL in the middle of every method's search, and the same command again: the same bits."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from gqasearch.search import available_methods
from tests.search.killable import PARAMETERS, search


def progress(folder: Path, method: str) -> int:
    path = folder / f"{method}.json"
    return len(json.loads(path.read_text())["lines"]) if path.is_file() else 0


def test_every_method_killed_and_resumed_gives_the_same_bits(tmp_path: Path) -> None:
    methods = list(available_methods())
    assert set(PARAMETERS) < set(methods)
    command = [sys.executable, "-m", "tests.search.killable", str(tmp_path), *methods]
    rng = random.Random(0)
    process, killed = subprocess.Popen(command), set()
    for method in methods:
        # The others end after a few generations, whatever their parameters.
        moment = rng.randint(2, 6)
        deadline = time.monotonic() + 120
        while not (tmp_path / f"{method}.done").exists() and time.monotonic() < deadline:
            assert process.poll() in (None, 0), "the search failed"
            if method in PARAMETERS and method not in killed and progress(tmp_path, method) >= moment:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed.add(method)
                assert not (tmp_path / f"{method}.done").exists()
                process = subprocess.Popen(command)
            time.sleep(0.002)
    assert process.wait(timeout=120) == 0
    assert killed == set(PARAMETERS)
    for method in methods:
        whole = search(method)
        assert json.loads((tmp_path / f"{method}.json").read_text())["lines"] == whole, method

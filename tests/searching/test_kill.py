"""SIGKILL in the middle of a search, and the same again: the same bits. ``test_resume`` stops at every generation."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from gqasearch.searching import available_methods
from tests import forked
from tests.searching.killable import PARAMETERS, search, search_all

# One that works generation by generation, one that lives in Optuna's study, one that runs a model in stages.
OFTEN = ("evolution", "tpe", "staged")


def progress(folder: Path, method: str) -> int:
    path = folder / f"{method}.json"
    return len(json.loads(path.read_text())["lines"]) if path.is_file() else 0


def test_methods_killed_and_resumed_give_the_same_bits(tmp_path: Path, nightly: bool) -> None:
    """The others, which `make test-all` adds, end after a few generations, whatever their parameters."""
    assert set(PARAMETERS) < set(available_methods())
    methods = list(available_methods()) if nightly else list(OFTEN)
    rng = random.Random(0)
    process, killed = forked.start(search_all, tmp_path, methods), set()
    for method in methods:
        moment = rng.randint(2, 6)
        deadline = time.monotonic() + 120
        while not (tmp_path / f"{method}.done").exists() and time.monotonic() < deadline:
            assert process.exitcode in (None, 0), "the search failed"
            if method in PARAMETERS and method not in killed and progress(tmp_path, method) >= moment:
                forked.end(process)
                killed.add(method)
                assert not (tmp_path / f"{method}.done").exists()
                process = forked.start(search_all, tmp_path, methods)
            time.sleep(0.002)
    process.join(120)
    assert process.exitcode == 0
    assert killed == set(PARAMETERS) & set(methods)
    for method in methods:
        whole = search(method)
        assert json.loads((tmp_path / f"{method}.json").read_text())["lines"] == whole, method

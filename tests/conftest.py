"""What every test stands on: no network, no writes outside a scratch folder, one thread."""

from __future__ import annotations

import errno
import io
import os
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# One scratch folder per process (each xdist worker has its own), named before torch, transformers and
# matplotlib are imported: they read these once. Processes that a test starts inherit them.
_SCRATCH = tempfile.TemporaryDirectory(prefix="gqasearch-tests-")
_HOME = Path(_SCRATCH.name)
os.environ.update(
    HOME=str(_HOME),
    XDG_CACHE_HOME=str(_HOME / "cache"),
    GQASEARCH_CACHE=str(_HOME / "cache" / "gqasearch"),
    HF_HOME=str(_HOME / "cache" / "huggingface"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    MPLCONFIGDIR=str(_HOME / "matplotlib"),
    MPLBACKEND="Agg",
    # The suite runs one process per core; more threads than cores only slow it down.
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    # Terminal output that tests read must not depend on the terminal that runs them.
    COLUMNS="120",
    NO_COLOR="1",
)
os.environ.pop("FORCE_COLOR", None)

# A busy machine is no failure, and `make test` tries the same examples each time: what it says of a commit it says
# again. New examples are for `make explore` to find; what it finds becomes an @example of its test.
settings.register_profile("gqasearch", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("nightly", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("gqasearch")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="full matrices and every moment, as in `make test-all`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked ``nightly`` runs where it is asked for."""
    if config.getoption("nightly"):
        return
    left = [item for item in items if item.get_closest_marker("nightly") is not None]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item.get_closest_marker("nightly") is None]


@pytest.fixture(scope="session")
def nightly(request: pytest.FixtureRequest) -> bool:
    """True in `make test-all`."""
    return bool(request.config.getoption("nightly"))


class _FullDisk(io.FileIO):
    """Takes a few bytes, and then no more."""

    def write(self, data: Any) -> int:
        super().write(data[:4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that is opened for writing through ``Path`` runs out of disk."""
    original = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return _FullDisk(self, mode) if "w" in mode else original(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """What a test compared goes into its report, also where it then fails."""
    try:
        return (yield)
    finally:
        if (equality := sys.modules.get("tests.checkpoints.equality")) is not None:
            item.user_properties += equality.properties()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How exact every layout of every family is, and which layout loads where, if this run tried that."""
    from tests.checkpoints import equality
    from tests.clients import summary

    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    reports = [report for report in reports if getattr(report, "when", None) == "call"]
    properties = [found for report in reports for found in report.user_properties]
    for title, table in (
        ("checkpoints in transformers: max |difference| of logits from the parent with tied heads", equality.table),
        ("checkpoints in other engines: max |difference| of log-probabilities, float32", summary.table),
    ):
        if lines := table(properties):
            terminalreporter.section(title)
            terminalreporter.write("\n".join(lines) + "\n")


def pytest_unconfigure() -> None:
    _SCRATCH.cleanup()

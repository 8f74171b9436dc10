"""The run folder: what lies where, how it is resumed, and that nothing in it is lost."""

from __future__ import annotations

import json
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from gqasearch import __version__
from gqasearch.config import RunConfig, build_config, read_config_file
from gqasearch.errors import UserError
from gqasearch.files import NOT_CONTENT, read_json, write_file, write_json
from gqasearch.searching.evaluation_log import whole_lines
from gqasearch.settings import Settings
from gqasearch.steps.kv_bytes import DecisionFiles

REPORTED_PACKAGES = ("torch", "transformers", "deap", "numpy", "scipy", "pandas", "safetensors")


@dataclass(frozen=True)
class RunFolder:
    """``runs/NAME/``; every file appears whole or not at all."""

    path: Path

    @property
    def decision(self) -> DecisionFiles:
        """What a decision about the cache's format reads and writes."""
        return DecisionFiles.within(self.path)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def state(self) -> Path:
        return self.path / "state" / "search.json"

    @property
    def evaluations(self) -> Path:
        """What the search was answered: it goes on by being made again, answered from here."""
        return self.path / "state" / "evaluations.jsonl"

    @property
    def stages(self) -> Path:
        """What every stage took so far."""
        return self.path / "state" / "stages.json"

    @property
    def plan(self) -> Path:
        """What the run was expected to take when it began."""
        return self.path / "state" / "plan.json"

    @property
    def inputs(self) -> Path:
        """Fingerprints of what the work is made from."""
        return self.path / "state" / "inputs.json"

    @property
    def refined(self) -> Path:
        """Layers that the refinement is done with, and its hidden states, until the result is there."""
        return self.path / "state" / "refined"

    @property
    def candidates(self) -> Path:
        """What fitness functions keep of their candidates, until the result is there."""
        return self.decision.candidates

    @property
    def measured(self) -> Path:
        """What the evaluation knows so far, until the result is there."""
        return self.path / "state" / "measured"

    @property
    def grouping(self) -> Path:
        return self.path / "grouping.json"

    @property
    def pareto(self) -> Path:
        return self.decision.pareto

    @property
    def format(self) -> Path:
        """The format of the cache that was decided on, and what was compared with it."""
        return self.decision.format

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def generated(self) -> Path:
        """What ``evaluate --generate`` found."""
        return self.path / "generated.json"

    @property
    def similarity(self) -> Path:
        return self.path / "similarity.npz"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def lock(self) -> FileLock:
        """Held while a run works here; a second process is told so instead of mixing results."""
        return FileLock(self.path / ".lock")

    def acquire(self) -> FileLock:
        """Take the lock or say who is in the way."""
        return take_lock(self.lock())

    def open(self, config: Settings) -> None:
        """Begin or resume: make the folder, or check that its configuration is the same.

        Raises ``UserError`` as ``check`` does.
        """
        self.check(config)
        if not self.config.is_file():
            self.path.resolve().mkdir(parents=True, exist_ok=True)  # where a link leads
            write_file(self.config, config.to_yaml())  # first: its presence makes the folder a run
        (self.path / "state").mkdir(exist_ok=True)
        if not self.environment.is_file():
            write_json(self.environment, environment())

    def check(self, config: Settings) -> None:
        """Raise ``UserError`` that names every setting that differs, or when the folder holds other things.

        Or when it cannot be made, which ``open`` would say only after models and texts are read. Leaves nothing.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is no folder; give another --output-dir")
        if self.config.is_file():
            refuse_other(self.path, "run", self.settings(), config)
        elif holds_other_things(self.path):
            raise UserError(f"{self.path} exists and is no run folder; give another --output-dir")
        else:
            refuse_unwritable(self.path)

    def settings(self) -> Settings:
        """The configuration that the folder was made with."""
        return self.read_config()

    def read_config(self) -> RunConfig:
        """The configuration that the run was started with."""
        if not self.config.is_file():
            raise UserError(f"{self.path} is no run folder: it has no config.yaml")
        return build_config(read_config_file(self.config))

    def read_state(self) -> dict[str, Any] | None:
        """What a search that was begun keeps to, or None."""
        if not self.state.is_file():
            return None
        return read_json(self.state)

    def known_history(self) -> list[dict[str, Any]]:
        """Every generation that the search has made, in this process or before."""
        return [json.loads(line) for line in whole_lines(self.history)]

    def write_state(self, state: dict[str, Any]) -> None:
        write_json(self.state, state, overwrite=True)


def refuse_other(path: Path, what: str, before: Settings, now: Settings) -> None:
    """Raises ``UserError`` that names every setting in which the ``what`` in this folder differs."""
    was, wanted = before.model_dump(mode="json"), now.model_dump(mode="json")
    differ = [f"{name} was {was[name]!r}, is {wanted[name]!r}" for name in wanted if was[name] != wanted[name]]
    if differ:
        raise UserError(f"{path} holds a {what} with other settings: {'; '.join(differ)}. Give another --output-dir")


def holds_other_things(path: Path) -> bool:
    """Whether there is anything but a lock and what a killed process left aside."""
    return path.exists() and any(
        not entry.name.startswith(".") and entry.name not in NOT_CONTENT for entry in path.iterdir()
    )


def refuse_unwritable(path: Path) -> None:
    """Raises ``UserError`` where no folder can be made, at ``path`` or at the nearest place above it that is there.

    One is made there and removed: permissions do not tell of file systems that take no folders.
    """
    there = path.resolve()
    try:
        while not there.exists():
            there = there.parent
        with TemporaryDirectory(prefix=".", dir=there):
            pass
    except OSError as error:
        raise UserError(f"cannot make {path}: {error.strerror}; give another --output-dir") from error


def take_lock(lock: FileLock) -> FileLock:
    """Take the lock of a folder at once, or say who is in the way."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        folder = Path(lock.lock_file).parent
        raise UserError(f"another process is running in {folder}; wait for it or give another --output-dir") from None
    return lock


def environment() -> dict[str, Any]:
    """What a result depends on besides its configuration."""
    return {
        "gqasearch": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in REPORTED_PACKAGES},
        "command": without_passwords(
            " ".join(Path(word).name if index == 0 else word for index, word in enumerate(sys.argv))
        ),
    }


def without_passwords(text: str) -> str:
    """``text`` with the passwords of all URLs in it replaced by ``***``.

    >>> without_passwords("--storage postgresql+psycopg://me:secret@host/db?password=secret")
    '--storage postgresql+psycopg://me:***@host/db?password=***'
    """
    return re.sub(r"(\b\w*password=)[^&\s]+", r"\1***", re.sub(r"(://[^:/@\s]*:)\S*@", r"\1***@", text))

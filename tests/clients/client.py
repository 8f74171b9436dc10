"""An engine in its own environment under ``.venv-clients``: whether it is there, and how a script runs in it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venv-clients"
ALL_CLIENTS = "GQASEARCH_ALL_CLIENTS"  # set by `make test-clients`


@dataclass(frozen=True)
class Answer:
    """What a script wrote as JSON, and what it and the engine printed."""

    result: Any
    log: str


class ClientError(Exception):
    """A script that failed; the message is what it printed."""


@dataclass(frozen=True)
class Client:
    """``name``: of its folder in ``tests/clients`` and of its environment; ``title``: in the table.

    ``in_suite``: `make test` installs it; the others run in `make test-clients` alone.
    """

    name: str
    title: str
    in_suite: bool = False

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.name / "bin" / "python"

    def require(self) -> None:
        """Skip the test, with the reason, where the engine is not to be run."""
        if not self.in_suite and not os.environ.get(ALL_CLIENTS):
            pytest.skip(f"{self.title} runs in make test-clients")
        if not (ENVIRONMENTS / self.name / ".installed").is_file():
            pytest.skip(f"{self.title} is not installed; make {'test' if self.in_suite else 'test-clients'} does it")

    def run(self, script: str, request: Any, folder: Path, *, timeout: float = 300) -> Answer:
        """Run ``tests/clients/NAME/SCRIPT REQUEST RESULT`` in the engine's environment; raises ``ClientError``.

        ``folder``: for the two files.
        """
        self.require()
        asked, got = folder / f"{self.name}-request.json", folder / f"{self.name}-result.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        got.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [self.python, ROOT / "tests" / "clients" / self.name / script, asked, got],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if done.returncode or not got.is_file():
            raise ClientError(f"{script} ended with {done.returncode}:\n{done.stdout[-30000:]}")
        return Answer(json.loads(got.read_text(encoding="utf-8")), done.stdout)

"""The plug-in that CONTRIBUTING.md shows is built, installed, found and tested as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked

ROOT = Path(__file__).resolve().parent.parent
FILE_BLOCK = re.compile(r"^File `([^`]+)`:\n\n```\w+\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path, **environment: str) -> str:
    result = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


# What the process has imported already cannot be rewritten any more.
QUIETLY = ["-q", "-W", "error", "--assert", "plain"]


def pass_its_tests(package: Path, site: Path) -> None:
    """The example's own tests, in a process that finds what was installed."""
    os.chdir(package)
    sys.path.insert(0, str(site))
    assert pytest.main([*QUIETLY, "--junitxml", "results.xml", str(package)]) == 0
    found = re.search(r'failures="0" skipped="0" tests="(\d+)"', Path("results.xml").read_text(encoding="utf-8"))
    assert found is not None and found.group(1) == "10"  # eight of the contract, two of its own


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The example's files, in a folder outside the repository."""
    folder = tmp_path / "value-map-fitness"
    folder.mkdir()
    for name, content in FILE_BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def test_worked_example_installs_and_passes_its_own_tests(package: Path, tmp_path: Path) -> None:
    assert {path.suffix for path in package.iterdir()} == {".toml", ".py"}
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run([sys.executable, *install, "--target", str(site), str(package)], tmp_path)
    (package / "value_map_fitness.py").unlink()  # what is tested is what was installed
    process = forked.start(pass_its_tests, package, site)
    process.join(120)
    assert process.exitcode == 0


def test_worked_example_keeps_to_the_house_style(package: Path) -> None:
    settings = ["--config", str(ROOT / "pyproject.toml"), "--config", "src=['.']"]
    run([sys.executable, "-m", "ruff", "format", "--check", *settings, str(package)], package)
    run([sys.executable, "-m", "ruff", "check", "--ignore", "D,I,S,INP", *settings, str(package)], package)

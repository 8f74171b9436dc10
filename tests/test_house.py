"""The files that describe the project agree with each other, with what is installed and with the code."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import gqasearch

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = [
    Requirement(line) for name, lines in PROJECT["optional-dependencies"].items() if name != "dev" for line in lines
]
DEV = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]
BUILD = [Requirement(line) for line in PYPROJECT["build-system"]["requires"]]
SUPPORTED_PYTHONS = ("3.11", "3.12", "3.13")
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "ray": "ray-core"}
IMPORT_NAMES = {"pyyaml": "yaml"}
# Imported by another package on our behalf: optuna's CmaEsSampler; SQLAlchemy's driver, torch's writer.
INDIRECT = {"cmaes"}
INDIRECT_EXTRAS = {"psycopg", "tensorboard"}
# A client of a service that the tests cannot reach, with a daemon of its own (tests/tracking stands in for it); and
# what brings two dozen packages along, installed in an environment of its own for tests/clients.
NOT_INSTALLED = {"wandb", "lm-eval", "datasets"}
# What the project was asked to be built on.
FOUNDATIONS = {"torch", "transformers", "deap", "numpy", "scipy", "optuna", "pandas"}
CUDA_ONLY = re.compile(r"(nvidia|cuda)-|triton$")
SOURCE_FOLDERS = ("gqasearch", "fitness/gqasearch_fitness", "experiments")

pinned_environment = pytest.mark.skipif(
    not (Path(sys.prefix) / ".installed").is_file(),
    reason="this environment was not made by make, so constraints.txt does not bind it",
)


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def pins_by_name() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for pin in pins():
        found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def pinned_version(name: str, python: str) -> Version | None:
    """The version that constraints.txt allows for this package on this Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    fitting = [
        pin
        for pin in pins_by_name().get(canonicalize_name(name), [])
        if pin.marker is None or pin.marker.evaluate(environment)
    ]
    assert len(fitting) <= 1, f"{name}: more than one pin for Python {python}"
    return Version(next(iter(fitting[0].specifier)).version) if fitting else None


def closure() -> dict[str, str]:
    """Every package that gqasearch[dev] needs in this environment: canonical name -> installed version."""
    found: dict[str, str] = {}
    visited: set[tuple[str, str]] = set()
    waiting = [("gqasearch", ""), ("gqasearch", "dev")]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                waiting.extend((needed, wanted) for wanted in ("", *requirement.extras))
    del found["gqasearch"]
    return found


def imported_modules(folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(top-level module, file) of every absolute import in the Python files below these folders."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names = [node.module]
                else:
                    continue
                for name in names:
                    yield name.partition(".")[0], path.relative_to(ROOT).as_posix()


def import_name(requirement: Requirement) -> str:
    name = canonicalize_name(requirement.name)
    return IMPORT_NAMES.get(name, name.replace("-", "_"))


def test_conda_environment_equals_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    listed = [item for item in environment["dependencies"] if isinstance(item, str)]
    expected = {
        f"{CONDA_NAMES.get(requirement.name, requirement.name)}{requirement.specifier}" for requirement in RUNTIME + DEV
    }
    assert set(listed) == expected | {f"python{PROJECT['requires-python']}", "pip"}
    assert len(listed) == len(set(listed))
    assert environment["name"] == PROJECT["name"]
    assert [item for item in environment["dependencies"] if not isinstance(item, str)] == [{"pip": ["-e ."]}]


def test_constraints_hold_nothing_but_exact_pins() -> None:
    for pin in pins():
        assert [specifier.operator for specifier in pin.specifier] == ["=="], f"{pin} is no exact pin"
        version = next(iter(pin.specifier)).version
        assert "*" not in version, f"{pin} leaves the version open"
        assert "+" not in version, f"{pin} names a local build, which no index has"
        assert pin.url is None, f"{pin} names a place"


@pytest.mark.parametrize("python", SUPPORTED_PYTHONS)
def test_constraints_pin_every_dependency(python: str) -> None:
    for requirement in RUNTIME + DEV + BUILD:
        version = pinned_version(requirement.name, python)
        assert version is not None, f"{requirement.name} is not pinned for Python {python}"
        assert version in requirement.specifier, f"{requirement} refuses its pin {version}"


@pinned_environment
def test_constraints_pin_the_whole_closure_and_nothing_else() -> None:
    installed = set(closure())
    pinned = {name for name in pins_by_name() if pinned_version(name, THIS_PYTHON) is not None}
    assert installed - pinned == set(), "needed, not pinned"
    assert {name for name in pinned - installed if not CUDA_ONLY.match(name)} == set(), "pinned, not needed"


@pinned_environment
def test_installed_versions_are_the_pinned_ones() -> None:
    """An environment that drifted from constraints.txt tests something else than what a new user gets."""
    drifted = {
        name: f"{version}, pinned {pinned}"
        for name, version in closure().items()
        if (pinned := pinned_version(name, THIS_PYTHON)) is not None and Version(version).public != pinned.public
    }
    assert drifted == {}


def test_every_runtime_dependency_is_imported() -> None:
    imported = {module for module, _ in imported_modules(SOURCE_FOLDERS)}
    unused = {requirement.name for requirement in RUNTIME if import_name(requirement) not in imported}
    assert unused == INDIRECT, "declared in pyproject.toml, imported nowhere"


def test_extras_are_imported_and_installed_for_the_tests() -> None:
    imported = {module for module, _ in imported_modules(SOURCE_FOLDERS[:2])}
    assert {import_name(requirement) for requirement in EXTRAS} - imported == INDIRECT_EXTRAS
    missing = {str(requirement) for requirement in EXTRAS} - {str(requirement) for requirement in DEV}
    assert {Requirement(line).name for line in missing} == NOT_INSTALLED


def test_foundations_are_imported_by_the_packages() -> None:
    imported = {module for module, _ in imported_modules(SOURCE_FOLDERS[:2])}
    assert imported >= FOUNDATIONS
    assert {requirement.name for requirement in RUNTIME} >= FOUNDATIONS


def test_every_import_is_declared() -> None:
    known = {import_name(requirement) for requirement in RUNTIME + EXTRAS} | set(sys.stdlib_module_names)
    known |= {"gqasearch", "gqasearch_fitness", "experiments"}
    rivals = (ROOT / "experiments" / "benchmarks" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    known |= {import_name(Requirement(line)) for line in rivals if not line.startswith("#")}
    undeclared = {(module, path) for module, path in imported_modules(SOURCE_FOLDERS) if module not in known}
    assert undeclared == set(), "imported, not declared in pyproject.toml"


def test_versions_agree() -> None:
    assert importlib.metadata.version("gqasearch") == gqasearch.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, flags=re.MULTILINE)
    assert released[0] == gqasearch.__version__
    assert [Version(version) for version in released] == sorted(map(Version, released), reverse=True)


def test_supported_pythons_agree() -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)]
    assert tuple(f"3.{minor}" for minor in named) == SUPPORTED_PYTHONS
    assert PROJECT["requires-python"] == f">={SUPPORTED_PYTHONS[0]}"
    oldest = SUPPORTED_PYTHONS[0]
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_entry_points_load() -> None:
    declared = {**PROJECT["entry-points"]["gqasearch.fitness"], **PROJECT["scripts"]}
    ours = [point for point in importlib.metadata.distribution("gqasearch").entry_points if point.name in declared]
    assert {point.name: point.value for point in ours} == declared
    for point in ours:
        assert callable(point.load())


@pytest.mark.parametrize("package", ["gqasearch", "fitness/gqasearch_fitness"])
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_import_contracts_hold() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert command is not None
    result = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ci_is_executable_and_runs_the_suite() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("exec make test")


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "test-clients", "lint", "bench"])
def test_make_targets_build_their_own_environment(target: str, tmp_path: Path) -> None:
    """In a folder without .venv every target begins by making one from constraints.txt."""
    clients = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "clients").glob("*/requirements.txt")]
    described = ["Makefile", "pyproject.toml", "constraints.txt", "experiments/benchmarks/requirements.txt"]
    for name in described + clients:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    plan = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "venv --clear .venv" in plan
    assert "--constraint constraints.txt" in plan
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / ".venv" / ".rivals-installed").touch()
    for client in clients:
        environment = tmp_path / ".venv-clients" / Path(client).parent.name
        environment.mkdir(parents=True)
        (environment / ".installed").touch()
    plan = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "pip" not in plan, "a whole environment is installed again"


def test_every_client_is_named_and_pinned() -> None:
    """Exact versions, since `make` installs them without looking for what they need."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^(?:SUITE_)?CLIENTS := (.*)$", makefile, flags=re.MULTILINE)
    names = {name for line in named for name in line.split() if not name.startswith("$")}
    folders = {path.parent.name: path for path in (ROOT / "tests" / "clients").glob("*/requirements.txt")}
    assert folders.keys() == names
    for path in folders.values():
        lines = path.read_text(encoding="utf-8").splitlines()
        for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
            assert [specifier.operator for specifier in requirement.specifier] == ["=="], f"{path}: {requirement}"


def test_wheel_holds_both_packages_and_their_data(tmp_path: Path) -> None:
    import zipfile

    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(base).as_posix()
        for base, package in ((ROOT, "gqasearch"), (ROOT / "fitness", "gqasearch_fitness"))
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == expected

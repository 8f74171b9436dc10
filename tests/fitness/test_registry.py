"""Fitness plug-ins that cannot be used: they stop those who ask for them, and nobody else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.comparison import build_comparison
from gqasearch.errors import UserError
from gqasearch.fitness import available_fitness, broken_fitness, make_fitness

WHOLE = """
from gqasearch.fitness import Fitness
class Whole(Fitness):
    name, reference, needs, summary = "{name}", "-", "weights", "a word"
    def prepare(self, context): ...
"""
# What the module of a plug-in holds -> why it cannot be used.
BROKEN = {
    "import no_such_package": "ModuleNotFoundError: No module named 'no_such_package'",
    "def (": "SyntaxError: ",
    "1 / 0": "ZeroDivisionError: division by zero",
    "raise SystemExit(3)": "SystemExit: 3",
    "raise OSError(2,\n'two\\nlines')": "two lines",
    "": "AttributeError: ",
    "Whole = 3": "is no subclass of gqasearch.fitness.Fitness",
    WHOLE.format(name="another"): "calls itself 'another'",
    "from gqasearch.fitness import Fitness\nclass Whole(Fitness): name = 'other'": "does not say its reference, needs",
}
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install(package, code, name)``: a package whose module offers one fitness."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(package: str, code: str, name: str = "other") -> None:
        (tmp_path / f"{package}_module.py").write_text(code)
        about = tmp_path / f"{package}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[gqasearch.fitness]\n{name} = {package}_module:Whole\n")
        monkeypatch.delitem(sys.modules, f"{package}_module", raising=False)

    return write


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_plug_in_stops_only_those_who_ask_for_it(code: str, install: Install) -> None:
    install("theirs", code)
    assert make_fitness("merge-error").name == "merge-error"
    assert "other" not in available_fitness() and "kl" in available_fitness()
    with pytest.raises(UserError) as caught:
        make_fitness("other")
    words = str(caught.value)
    assert words.startswith("fitness other (theirs: theirs_module:Whole) ") and BROKEN[code] in words
    assert "\n" not in words and words == broken_fitness()["other"]


def test_two_packages_of_one_name_are_both_named(install: Install) -> None:
    for package in ("ours", "theirs"):
        install(package, WHOLE.format(name="other"))
    with pytest.raises(UserError, match=r"ours: ours_module:Whole.*two installed packages offer this name"):
        make_fitness("other")
    install("third", WHOLE.format(name="kl"), "kl")  # an installed one's name is no one else's
    with pytest.raises(UserError, match=r"gqasearch: gqasearch_fitness.*third: third_module|third.*gqasearch: "):
        make_fitness("kl")
    assert make_fitness("merge-error").name == "merge-error"


def test_a_plug_in_is_not_imported_for_others(install: Install) -> None:
    install("theirs", "raise KeyboardInterrupt")
    make_fitness("merge-error")


def test_lists_and_comparisons_say_what_is_broken(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("theirs", "import no_such_package")
    shown = CliRunner().invoke(app, ["ls", "fitness"])
    assert shown.exit_code == 0 and "No module named 'no_such_package'" in " ".join(shown.stdout.split())
    listed = json.loads(CliRunner().invoke(app, ["ls", "fitness", "--json"]).stdout)["fitness"]
    what = {row["name"]: row["what"] for row in listed}
    assert what["other"].startswith("broken: fitness other (theirs: ") and not what["kl"].startswith("broken")
    assert "other" not in build_comparison({}).fitness
    monkeypatch.setattr("gqasearch.cli.compare._compare", lambda *_: None)
    compared = CliRunner().invoke(app, ["compare"])
    assert compared.exit_code == 0 and "warning: left out: fitness other (theirs: " in compared.stderr
    assert CliRunner().invoke(app, ["compare", "--fitness", "kl"]).stderr == ""

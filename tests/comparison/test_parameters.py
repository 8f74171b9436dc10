"""Parameters of what is compared: from the command line, and of objects from Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gqasearch as gqs
from gqasearch.cli.compare import _resolve
from gqasearch.errors import UserError


def resolved(*settings: str, file: Path | None = None) -> Any:
    return _resolve(file, {"fitness": ["kl", "merge-error"]}, {}, list(settings))


def test_parameters_by_name_are_set(tmp_path: Path) -> None:
    file = tmp_path / "compare.yaml"
    file.write_text("fitness_parameters: {kl: {tokens: 512}}\n")
    config = resolved("fitness_parameters.kl.tokens=1024", "method_parameters.evolution.population=8", file=file)
    assert config.fitness_parameters == {"kl": {"tokens": 1024}}
    assert config.method_parameters == {"evolution": {"population": 8}}
    assert resolved("refine=outputs", file=file).fitness_parameters == {"kl": {"tokens": 512}}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("fitness_parameters.kl=3", "give fitness_parameters.NAME.PARAMETER=VALUE"),
        ("fitness.tokens=1024", r"give --set fitness_parameters\.NAME\.KEY=value"),
        ("fitness_parameters.nonsense.tokens=3", "nonsense"),
    ],
)
def test_others_are_refused_with_how_they_are_given(setting: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolved(setting)


@dataclass(frozen=True)
class NotInstalled(gqs.Fitness):
    name = "not-installed"
    reference = "https://example.org"
    needs = "weights"
    summary = "none"

    def prepare(self, context: Any) -> Any:
        raise AssertionError("never asked")


def test_objects_stand_for_names_and_parameters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("gqasearch.comparison.from_python.compare_in_folder", lambda config, *_: seen.append(config))
    parent = gqs.load("embedded")
    gqs.compare(parent, tmp_path, fitness=[gqs.KL(tokens=1024), "merge-error"])
    assert seen[0].fitness == ("kl", "merge-error")
    assert seen[0].fitness_parameters["kl"]["tokens"] == 1024
    with pytest.raises(UserError, match="not-installed is not installed as a plug-in"):
        gqs.compare(parent, tmp_path, fitness=[NotInstalled()])


def test_a_search_of_what_is_no_parent_is_refused() -> None:
    with pytest.raises(UserError, match=r"gqasearch\.load has given, got 'embedded'"):
        gqs.search("embedded", kv_ratio=0.5)  # type: ignore[arg-type]

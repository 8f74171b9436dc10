"""What is wrong with a file is said before anything runs, with the field and what it may hold."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from gqasearch.errors import UserError
from gqasearch.sweeps.definition import parse_sweep, read_sweep
from gqasearch.sweeps.drawn_parameters import count_draws, draw, extreme_draws
from gqasearch.sweeps.storage import storage_at
from gqasearch.sweeps.study import locate
from tests.sweeps.helpers import call, write

ROOT = Path(__file__).resolve().parents[2]
POPULATION = {"type": "int", "low": 4, "high": 8}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "field": ({"sampeler": "tpe"}, "unknown field in the file: 'sampeler'; did you mean 'sampler'"),
    "parameter field": (
        {"parameters": {"method.population": {**POPULATION, "hgih": 9}}},
        "unknown field in parameters.method.population: 'hgih'; did you mean 'high'",
    ),
    "kind": ({"parameters": {"merge": {"type": "choice"}}}, "a list of choices, or a mapping with type"),
    "no kind": ({"parameters": {"kv_ratio": 0.5}}, "parameters.kv_ratio"),
    "bound": ({"parameters": {"method.population": {"type": "int", "low": 4}}}, "high: is missing"),
    "order": (
        {"parameters": {"method.population": {**POPULATION, "high": 2}}},
        "low must be at most high, got 4 and 2",
    ),
    "log": (
        {"parameters": {"kv_ratio": {"type": "float", "low": 0, "high": 1, "log": True}}},
        "log needs a low above 0",
    ),
    "setting": ({"parameters": {"kv_ration": [0.5]}}, "unknown setting 'kv_ration'; did you mean 'kv_ratio'"),
    "section": ({"parameters": {"methode.population": POPULATION}}, "did you mean 'method'"),
    "parameter": (
        {"parameters": {"method.popluation": POPULATION}},
        "unknown parameter of method evolution 'popluation'; did you mean 'population'",
    ),
    "of some": (
        {"parameters": {"method": ["evolution", "annealing"], "method.population": POPULATION}},
        "if only some of them have method, add `when`",
    ),
    "choice": ({"parameters": {"fitness": ["kl", "merge-eror"]}}, "did you mean 'merge-error'"),
    "value": (
        {"parameters": {"method.crossover_rate": {"type": "float", "low": 0, "high": 2}}},
        "parameters.method.crossover_rate = 2.0: evolution: crossover_rate is a chance",
    ),
    "objective": ({"objectives": ["kld"]}, "unknown objective 'kld'; did you mean 'kl'"),
    "sampler": ({"sampler": "tbe"}, "unknown sampler 'tbe'; did you mean 'tpe'"),
    "sampler's": ({"sampler": {"name": "tpe", "n_startup": 3}}, "did you mean 'n_startup_trials'"),
    "pruner's": ({"pruner": {"name": "percentile"}}, "pruner percentile: "),
    "pruned front": ({"objectives": ["kl", "seconds"], "pruner": "median"}, "one objective only"),
    "pruned fitness": (
        {"pruner": "median", "parameters": {"merge": ["mean", "medoid"]}},
        "pruner median compares the fitness of trials, and merge would change its meaning",
    ),
    "what is measured": ({"parameters": {"evaluation_tokens": [600, 900]}}, "cannot be swept"),
    "twice": ({"settings": {"merge": "mean"}, "parameters": {"merge": ["mean", "medoid"]}}, "leave one out"),
    "when": (
        {"parameters": {"method.population": {**POPULATION, "when": {"method": "evolution"}}, "method": ["evolution"]}},
        "must be above it",
    ),
    "never": (
        {"parameters": {"merge": ["mean"], "method.population": {**POPULATION, "when": {"merge": "optimal"}}}},
        "is not among the choices ['mean']",
    ),
    "endless": (
        {"sampler": "brute-force", "parameters": {"kv_ratio": {"type": "float", "low": 0.2, "high": 1}}},
        "give it a step",
    ),
    "list in a list": (
        {"parameters": {"seed": [[1, 2]]}},
        "choices must be finite numbers, words, true, false or null",
    ),
    "no number": ({"parameters": {"kv_ratio": [0.5, math.nan]}}, "true, false or null, got nan"),
    "the same twice": ({"parameters": {"seed": [1, 2, 1]}}, "parameters.seed.choices: choices must differ"),
    "heartbeat": ({"heartbeat": {"interval": 10, "grace": 5}}, "grace must be above interval"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    change, message = WRONG[case]
    content = {"objectives": ["kl"], "settings": {}, "parameters": {"method.population": POPULATION}, **change}
    with pytest.raises(UserError) as caught:
        read_sweep(write(tmp_path, content))
    assert message in str(caught.value) and "tiny.yaml" in str(caught.value)


def test_the_documented_file_and_the_ready_ones_are_right(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs" / "sweeps.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    documented = tmp_path / "choices.yaml"
    documented.write_text(block, encoding="utf-8")
    assert read_sweep(documented).objectives == ("kl", "seconds")
    ready = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
    assert len(ready) >= 2
    for file in ready:
        read_sweep(file)


def test_a_condition_holds_through_conditions() -> None:
    """A parameter of a parameter that was not drawn is not drawn; every value is tried where it can be."""
    sweep = parse_sweep(
        {
            "objectives": "kl",
            "parameters": {
                "merge": ["mean", "optimal"],
                "refine": {"type": "categorical", "choices": ["none", "descent"], "when": {"merge": "optimal"}},
                "refine.steps": {"type": "int", "low": 10, "high": 12, "when": {"refine": "descent"}},
            },
        }
    )
    assert count_draws(sweep.parameters) == 1 + 1 + 3
    drawn = [draw(optuna.trial.FixedTrial(fixed), sweep.parameters) for fixed in _fixed()]  # type: ignore[arg-type]
    assert drawn == [{"merge": "mean"}, {"merge": "optimal", "refine": "descent", "refine.steps": 11}]
    found = [(name, value, values) for name, value, values in extreme_draws(sweep.parameters)]
    assert ("refine.steps", 12, {"merge": "optimal", "refine": "descent", "refine.steps": 12}) in found
    assert all(values[name] == value for name, value, values in found)


def _fixed() -> list[dict[str, Any]]:
    rest = {"refine": "descent", "refine.steps": 11}
    return [{"merge": merge, **rest} for merge in ("mean", "optimal")]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("journal:///tmp/x", "would stay RUNNING for ever"),
        ("study.log", "would stay RUNNING for ever"),
        ("grpc://host:13000", "would stay RUNNING for ever"),
        ("redis://:secret@host/0", "no heartbeat"),
        ("mysql://me:secret@host/db", "unknown kind 'mysql'"),
        ("sqlite:///:memory:", "expected sqlite:///FILE"),
        ("sqlite://host:port/file", "expected sqlite:///FILE"),
        ("sqlite:///which?/study.db", "a question mark in a file's name is written %3F"),
        ("postgresql+psycopg://me:secret@host", "names no database"),
        ("postgresql+psycopg://me:secret@host:port/db", "no URL of the form"),
        ("postgresql+psycopg://me:secret@[::1/db", "no URL of the form"),
        ("postgresql+psycopg://me:pass secret@host/db", "write %20"),
    ],
)
def test_storages_that_lose_trials_are_refused(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        storage_at(url)
    assert "secret" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    storage = storage_at("postgres://me:s:e%40c@host:5432/db?sslpassword=another&password=other")
    assert storage.shown == "postgresql+psycopg://me:***@host:5432/db?sslpassword=***&password=***"
    assert "other" not in repr(storage) and "e%40c" not in repr(storage)


def test_a_password_may_hold_what_ends_other_parts_of_a_url() -> None:
    storage = storage_at("postgresql://me:a/b#c@host/db")
    assert storage.shown == "postgresql+psycopg://me:***@host/db"


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "..", "a/b"])
def test_a_study_name_is_no_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no name of a folder in sweeps/"):
        locate(None, None, name, None)
    assert locate(None, None, name, tmp_path)[1].output_dir == tmp_path


def test_verbs_explain_themselves_and_files_are_told_from_verbs(tmp_path: Path) -> None:
    for verb in ((), ("start",), ("status",), ("best",), ("export",), ("report",), ("dashboard",)):
        shown = call(*verb, "--help")
        assert shown.exit_code == 0 and "Example:" in shown.output, verb
    missing = call(tmp_path / "no.yaml")
    assert missing.exit_code == 2 and "cannot read" in missing.stderr
    typo = call("statsu")
    assert typo.exit_code == 2 and "status" in typo.stderr
    content = {"objectives": ["kl"], "parameters": {"method.population": POPULATION}}
    checked = call("--dry-run", write(tmp_path, content), "--storage", "postgresql+psycopg://me:secret@host/db")
    assert checked.exit_code == 0 and "me:***@host/db" in checked.output and "secret" not in checked.output

"""``gqasearch evaluate --tasks``."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gqasearch.checkpoints.remote_code import REMOTE
from gqasearch.cli.app import app
from gqasearch.embedded import model_directory
from gqasearch.embedded.identifiers import NAME

PARENT = str(model_directory())


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", PARENT, "--parent", "embedded", *arguments])


def refused(result: Result, message: str) -> None:
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split()), result.stderr


def test_our_own_task_needs_no_lm_eval() -> None:
    assert find_spec("lm_eval") is None  # it has an environment of its own: tests/clients
    found = json.loads(call("--tasks", NAME, "--limit", "8", "--json").stdout)
    assert (found["limit"], found["lm_eval"]) == (8, None)
    assert [(score["task"], score["metric"], score["items"]) for score in found["scores"]] == [
        (NAME, "acc", 8),
        (NAME, "acc_norm", 8),
    ]
    for score in found["scores"]:  # the parent against itself
        assert score["parent"] == score["converted"] and score["parent_stderr"] == score["converted_stderr"]
    shown = call("--tasks", f"{NAME},{NAME}", "--limit", "8")
    assert shown.exit_code == 0 and shown.stdout.count(NAME) == 2 and "±" in shown.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "arc_easy"], "which is not installed: pip install 'gqasearch[eval]'. Without it: " + NAME),
        (["--tasks", " , "], "--tasks is empty"),
        (["--tasks", NAME, "--block-length", "64"], "--block-length: no effect with --tasks"),
        (["--tasks", NAME, "--evaluation-text", "x.txt"], "--evaluation-text: no effect with --tasks"),
        (["--limit", "5"], "--limit is the number of items of --tasks"),
    ],
)
def test_mistakes(flags: list[str], message: str) -> None:
    refused(call(*flags), message)


def test_code_in_a_checkpoint_is_not_run_for_a_task_either(tmp_path: Path) -> None:
    name = "modeling_ragged.py"
    config = json.loads((model_directory() / "config.json").read_text())
    maps = {"AutoConfig": "modeling_ragged.C", "AutoModelForCausalLM": "modeling_ragged.M"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": maps}))
    (tmp_path / name).write_text((REMOTE / name).read_text())
    result = CliRunner().invoke(
        app, ["evaluate", str(tmp_path), "--parent", "embedded", "--tasks", NAME, "--limit", "2"]
    )
    refused(result, "Give --trust-remote-code to run it")


class Harness:
    """What ``run_harness`` uses of lm-eval, with made-up figures."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def evaluate(self, **settings: Any) -> dict[str, Any]:
        self.asked.append(settings)
        if "broken" in settings["tasks"]:
            raise ConnectionError("the hub cannot be reached")
        figures = {
            "alias": "arc",
            "acc,none": 0.5,
            "acc_stderr,none": 0.1,
            "bleu,strict": 3.0,
            "bleu_stderr,strict": "N/A",
        }
        return {"results": {"arc_easy": figures}, "n-samples": {"arc_easy": {"original": 99, "effective": 7}}}


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    made = Harness()
    modules = {
        "lm_eval": SimpleNamespace(simple_evaluate=made.evaluate, __spec__=object()),
        "lm_eval.models": SimpleNamespace(),
        "lm_eval.models.huggingface": SimpleNamespace(HFLM=lambda **given: given),
        "lm_eval.tasks": SimpleNamespace(TaskManager=lambda **_: SimpleNamespace(all_tasks=["arc_easy", "broken"])),
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(vars(content))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("gqasearch.steps.tasks.harness_version", lambda: "0.4.13")
    return made


def test_tasks_of_lm_eval_run_on_both_models(harness: Harness) -> None:
    found = json.loads(call("--tasks", f"arc_easy,{NAME}", "--limit", "7", "--json").stdout)
    assert found["lm_eval"] == "0.4.13"
    scores = {(score["task"], score["metric"]): score for score in found["scores"]}
    assert scores.keys() == {(NAME, "acc"), (NAME, "acc_norm"), ("arc_easy", "acc"), ("arc_easy", "bleu, strict")}
    assert scores["arc_easy", "acc"]["converted_stderr"] == 0.1 and scores["arc_easy", "acc"]["items"] == 7
    assert scores["arc_easy", "bleu, strict"]["parent_stderr"] is None
    assert [(asked["tasks"], asked["limit"]) for asked in harness.asked] == [(["arc_easy"], 7)] * 2
    first, second = (asked["model"]["pretrained"] for asked in harness.asked)
    assert first is not second and first.config.architectures == second.config.architectures
    shown = call("--tasks", "arc_easy")
    assert "0.5 ± 0.1" in shown.stdout and "by lm-eval 0.4.13" in shown.stdout


def test_what_lm_eval_cannot_run_is_one_message(harness: Harness) -> None:
    refused(call("--tasks", "broken"), "lm-eval could not run broken: the hub cannot be reached")
    refused(call("--tasks", "arc_esy"), "unknown task 'arc_esy'; did you mean 'arc_easy'?")
    assert len(harness.asked) == 1  # an unknown name is found before any model is run

"""What a run says before its work, what it then refuses, and that it ends with what was asked for or says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gqasearch.budget import Budget
from gqasearch.cli.app import app
from gqasearch.config import RunConfig, build_config
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord, MergeRecord, write_grouping
from gqasearch.models import model_record
from gqasearch.run import RunFolder
from gqasearch.searching import most_generations
from gqasearch.steps import Workspace
from gqasearch.steps.check_settings import check_settings
from gqasearch.steps.outlook import COUNTS, ONE_SIZE, SIZES, Outlook, kinds
from gqasearch.steps.search_problem import build_problem, prepare_fitness
from gqasearch.steps.unmeasured_problem import unmeasured_problem
from tests.sweeps.helpers import started
from tests.tiny_models import save_checkpoint, tiny_model

PLAIN = {"merge": "mean", "objectives": ["weight-sharing-error"], "method": "hill-climb", "baseline": False}


def call(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def flags(settings: dict[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def refused(settings: dict[str, Any], folder: Path, message: str, *more: str) -> None:
    """By ``search`` and by ``search --dry-run`` alike, before there is a folder."""
    for dry in ([], ["--dry-run"]):
        result = call("search", *flags(settings), f"--output-dir={folder}", *more, *dry)
        assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.output
        assert not folder.exists()


def outlook_of(settings: dict[str, Any], **changes: Any) -> Outlook:
    return Outlook(Workspace(build_config({**settings, **PLAIN, **changes})))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that cannot have every layout, and one with a single KV head."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in {
        "one": tiny_model("llama", kv_heads=1),
        "qwen2": tiny_model("qwen2"),
        "opt": tiny_model("opt"),
        "sequential": tiny_model("gpt_neox", use_parallel_residual=False),
        "stablelm": tiny_model("stablelm"),
    }.items():
        save_checkpoint(model, folder / name)
    return folder


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("one", {}, "share one KV head already: there is nothing to merge"),
        ("one", {"kv_ratio": 1}, "share one KV head already"),
        ("qwen2", {"layout": "deci", "kv_budget": 7}, "layout deci: "),
        ("opt", {"layout": "stock"}, "layout stock: OPTForCausalLM has as many key and value heads as query heads"),
        ("sequential", {}, "--no-materialize"),
        ("stablelm", {"layout": "stock", "kv_heads": 4}, "--no-materialize"),
        ("qwen2", {"layout": "stock", "kv_budget": 7}, "one number of KV heads for all layers"),
    ],
)
def test_what_can_never_be_written_is_refused_before_the_search(
    models: Path, settings: dict[str, Any], tmp_path: Path, model: str, changes: dict[str, Any], message: str
) -> None:
    refused({**settings, "model": models / model, **changes}, tmp_path / "run", message)
    if model != "one":
        outlook_of(settings, model=str(models / model), **changes, materialize=False).check()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--fitness=kl", "--method=exact"], "method exact needs one fitness that is a sum over groups"),
        (["--fitness=kl", "--certify"], "--certify needs one fitness that is a sum over groups, got kl"),
        (["--objective=merge-error", "--objective=kl", "--method=exact"], "method exact"),
    ],
)
def test_what_a_method_cannot_search_is_refused_before_anything_is_measured(
    settings: dict[str, Any], tmp_path: Path, asked: list[str], message: str
) -> None:
    """It took the statistics of the whole model to find out."""
    refused(settings, tmp_path / "run", message, *asked)


@pytest.mark.parametrize("name", ["kl", "merge-error", "weight-sharing-error", "attention-output-error"])
def test_an_unmeasured_problem_has_the_form_of_the_measured_one(settings: dict[str, Any], name: str) -> None:
    """What is told of it holds for the search."""
    for more in ({}, {"kv_budget": 7}, {"objectives": [name, "kv-ratio"]}):
        work = Workspace(build_config({**settings, "objectives": [name], "refine": "none", **more}))
        told, real = unmeasured_problem(work), build_problem(work, prepare_fitness(work), work.method)
        assert told is not None
        assert (told.budget, told.free_counts, told.is_separable) == (real.budget, real.free_counts, real.is_separable)
        assert (told.partial is None, told.final is None) == (real.partial is None, real.final is None)
        kinds_of = [[type(errors) for errors in problem.layer_errors or ()] for problem in (told, real)]
        assert kinds_of[0] == kinds_of[1]
        assert most_generations(work.method, told) == most_generations(work.method, real)


def test_every_verb_refuses_a_model_with_one_kv_head(models: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    one = str(models / "one")
    work = Workspace(build_config({**settings, "model": one}))
    path = tmp_path / "grouping.json"
    layers = tuple(map(LayerRecord, Grouping.from_labels([[0], [0]])))
    write_grouping(path, GroupingDocument(model_record(one, work.source), layers, merge=MergeRecord("mean")))
    compared = [f"--set={name}={value}" for name, value in settings.items() if name != "model"]
    for arguments in (
        ["materialize", path, "--model", one, "--output-dir", tmp_path / "out"],
        ["compare", "--fitness=weight-sharing-error", f"--model={one}", *compared, "--output-dir", tmp_path / "out"],
    ):
        result = call(*arguments)
        assert result.exit_code == 2 and "there is nothing to merge" in result.stderr, result.output
        assert not (tmp_path / "out").exists()


def test_a_sweep_of_one_kv_head_says_so_once(models: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    from gqasearch.sweeps.sweep_worker import Worker

    values = {
        "objectives": ["kl"],
        "settings": {**settings, "model": str(models / "one"), "merge": "mean"},
        "parameters": {"method.population": {"type": "int", "low": 4, "high": 12}},
        "validation": {"tokens": 300},
    }
    study, place = started(tmp_path, values)
    with pytest.raises(UserError, match="nothing to merge"):
        Worker(place).run()
    assert study.get_trials() == []


def test_a_budget_that_merges_nothing_is_told_of_and_works(settings: dict[str, Any], tmp_path: Path) -> None:
    config = {**settings, "kv_ratio": 1, "merge": "mean", "method": "neighbour", "fitness": "weight-sharing-error"}
    result = call("search", *flags(config), "--output-dir", tmp_path / "run")
    assert result.exit_code == 0 and "note: the budget leaves every head its own: nothing is merged" in result.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["results"]["converted"]["kl"] == pytest.approx(0, abs=1e-6)
    assert any("nothing is merged" in warning for warning in metrics["warnings"])
    again = call("search", *flags(config), "--output-dir", tmp_path / "run")
    assert again.exit_code == 0 and "note:" not in again.stderr  # the work is done


def test_what_differs_from_what_was_asked_for(settings: dict[str, Any]) -> None:
    (rounded,) = outlook_of(settings, kv_ratio=0.4).notes()
    assert "kv-ratio 0.4" in rounded and "2 of 6 = 0.3333 in every layer" in rounded
    whole = outlook_of(settings, kv_ratio=0.4, uneven=True, materialize=False).notes()
    assert len(whole) == 1 and "5 of 12 = 0.4167 in the whole model" in whole[0]
    assert outlook_of(settings, kv_ratio=1 / 3).notes() == outlook_of(settings).notes() == []
    (ragged,) = outlook_of(settings, kv_budget=7).notes()
    assert "ragged" in ragged
    assert any("no checkpoint where" in note for note in outlook_of(settings, kv_budget=6, layout="stock").notes())


def budgets() -> Iterator[Budget]:
    """All that three layers of 6 heads can have, every layer the same."""
    for count, largest, movable, step in product(range(1, 7), (None, 2, 3), (False, True), (1, 2)):
        with suppress(UserError):
            yield Budget((count,) * 3, 6, movable=movable, largest_group=largest, count_step=step)


@pytest.mark.parametrize("free", [False, True])
def test_kinds_are_groupings_that_the_budget_allows(free: bool) -> None:
    for budget in budgets():
        found = kinds(budget, free)
        assert found
        for kind, grouping in found.items():
            sizes = {size for layer in grouping for size in layer.sizes}
            assert max(sizes) <= budget.largest
            assert all(layer.num_groups % budget.count_step == 0 for layer in grouping)
            assert (len(set(grouping.group_counts)) > 1) == (kind == COUNTS)
            assert kind == COUNTS or (len(sizes) == 1) == (kind == ONE_SIZE)
            assert free or grouping.kv_heads_total == budget.total
        assert (COUNTS in found) <= (budget.movable or free)
        assert (ONE_SIZE in found) == (6 % budget.counts[0] == 0)


def test_equal_sizes_have_one_kind() -> None:
    assert list(kinds(Budget((3, 3), 6, smallest_group=2, largest_group=2))) == [ONE_SIZE]
    assert list(kinds(Budget((4, 4), 6, largest_group=2))) == [SIZES]


def test_a_dry_run_tells_everything_and_touches_nothing(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is made, and no more weights are read than one layer's."""

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("gqasearch.steps.workspace.load_parent", loaded)
    monkeypatch.chdir(tmp_path)
    asked = {**settings, "kv_ratio": 0.4, "evaluation_tokens": 65536, "fitness": "kl"}
    result = call("search", *flags(asked), "--dry-run", "--set", "method.population=7")
    assert result.exit_code == 0, result.output
    for words in (
        "LlamaForCausalLM",
        "2 layers of 6 query heads and 6 KV heads of size 8",
        "budget: 2 of 6 KV heads in every layer, 4 of 12 KV heads",
        "stock-padded where group sizes differ",
        "descent (steps=240",
        "population=7",
        "of 65,536 wanted",
        "notes: kv-ratio 0.4",
    ):
        assert words in result.stdout, words
    facts = json.loads(call("search", *flags(asked), "--dry-run", "--json").stdout)
    assert (
        len(facts["notes"]) == 3
        and "for each of the 48 inputs of W_o" in facts["notes"][1]
        and facts["config"]["kv_ratio"] == 0.4
    )
    path = tmp_path / "again.yaml"
    path.write_text(result.stdout)
    again = call("search", "--config", path, "--dry-run")  # it is a configuration file
    first, second = (
        [line for line in found.stdout.splitlines()[1:] if not line.startswith("# expected time")]
        for found in (result, again)
    )
    assert first == second and any(line.startswith("# expected memory") for line in first)
    path.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"file": "x"}, "exists and is no run folder"),
        ({"config.yaml": build_config({"seed": 3}).to_yaml()}, "seed was 3, is 0"),
        (None, "is no folder"),
    ],
)
def test_a_dry_run_refuses_the_folder_that_a_run_would(
    settings: dict[str, Any], tmp_path: Path, there: dict[str, str] | None, message: str
) -> None:
    folder = tmp_path / "run"
    if there is None:
        folder.write_text("")
    else:
        folder.mkdir()
        for name, content in there.items():
            (folder / name).write_text(content)
    result = call("search", *flags(settings), "--dry-run", "--output-dir", folder)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.output


def test_a_dry_run_sees_damaged_weights(settings: dict[str, Any], tmp_path: Path) -> None:
    model = save_checkpoint(tiny_model("llama"), tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused({**settings, "model": model}, tmp_path / "run", "is damaged or truncated")


def test_a_run_that_ends_without_its_checkpoint_does_not_end_well(settings: dict[str, Any], tmp_path: Path) -> None:
    """Its layers turned out to differ, which the layout that was asked for cannot say; the search is not lost."""
    config: RunConfig = build_config({**settings, **PLAIN, "kv_budget": 6, "layout": "stock"})
    work, folder = Workspace(config), RunFolder(tmp_path / "run")
    folder.open(work.config)
    layers = tuple(map(LayerRecord, Grouping.from_labels([[0, 1, 0, 1, 0, 1], [0, 1, 2, 3, 0, 1]])))
    record = model_record(config.model, work.source)
    write_grouping(folder.grouping, GroupingDocument(record, layers, merge=MergeRecord("mean")))
    asked = ["search", "--config", folder.config, "--output-dir", folder.path]
    for more in ([], ["--json"], ["-q"]):
        result = call(*asked, *more)
        assert result.exit_code == 2 and "one number of KV heads for all layers" in result.stderr, result.output
        assert "gqasearch materialize" in result.stderr
    for verb in ("evaluate", "heal"):
        result = call(verb, folder.path, *(["--find-learning-rate"] if verb == "heal" else []))
        assert result.exit_code == 2 and "has no model/: its run is not done, or wrote no checkpoint" in result.stderr
    assert not folder.model.exists() and json.loads(folder.metrics.read_text())["checkpoint"]["layout"] is None
    written = call("materialize", folder.path, "--layout", "auto", "--output-dir", tmp_path / "out")
    assert written.exit_code == 0, written.output


@pytest.mark.parametrize("asked", [{"kv_heads": 1}, {"kv_heads": 3, "max_group_size": 2}, {"kv_heads": 6}])
def test_groups_that_can_only_be_of_one_size_need_no_padding(asked: dict[str, Any], tmp_path: Path) -> None:
    """A Qwen2 with added query heads loads in some engines alone."""
    source = save_checkpoint(tiny_model("qwen2", layers=1), tmp_path / "source")
    settings = {"model": str(source), "block_length": 32, "target": "any"}
    check_settings(Workspace(build_config({**settings, **asked})))
    with pytest.raises(UserError, match="no query-padded Qwen2"):
        check_settings(Workspace(build_config({**settings, "kv_heads": 2})))


@pytest.mark.parametrize(("kv_heads", "said"), [(2, True), (4, False), (8, False)])
def test_models_with_few_kv_heads_are_told_that_gains_end(kv_heads: int, said: bool, tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_model("llama", heads=8, kv_heads=kv_heads), tmp_path / "model")
    notes = outlook_of({"model": str(folder), "kv_heads": 1}).notes()
    words = f"the model's 8 query heads share {kv_heads} KV heads already: little is left to save"
    assert any(words in note for note in notes) is said

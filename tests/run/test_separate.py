"""Whole runs with ``separate_kv``: two partitions a layer, from the search to a checkpoint whose cache is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import count_parameters, kv_bytes_per_token
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import read_grouping
from gqasearch.run import RunFolder, run
from gqasearch.run.finished_runs import report_data
from gqasearch.run.origin import evaluation_config, materialize_config
from gqasearch.separate_grouping import SeparateGrouping
from gqasearch.steps import Workspace
from gqasearch.steps.convert import materialize
from gqasearch.steps.measure import checkpoint_subject, measure
from gqasearch.steps.workers import blueprint_of
from tests import forked
from tests.run.test_run import history_of, kill_after, words
from tests.tiny_encoders import save_encoder, tiny_encoder

SMALL = {"population": 8, "offspring": 8, "generations": 6}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))


def finished(settings: dict[str, Any], folder: Path, *, report: bool = False, **changes: Any) -> RunFolder:
    own = {"separate_kv": True, "refine": "outputs"}
    own |= {} if "method" in changes else {"method_parameters": SMALL}
    return run(build_config({**settings, **own, **changes}), folder, report=report)


def test_half_of_both_sides(settings: dict[str, Any], tmp_path: Path) -> None:
    """A whole run: descent, checkpoint, its cache, the report; what is made of it later is the same again."""
    folder = finished(settings, tmp_path / "run", refine="descent", refine_parameters={"steps": 8})
    metrics, document = json.loads(folder.metrics.read_text()), read_grouping(folder.grouping)
    grouping = document.partitions
    assert isinstance(grouping, SeparateGrouping) and json.loads(folder.grouping.read_text())["version"] == 2
    assert [(layer.keys.num_groups, layer.values.num_groups) for layer in grouping] == [(3, 3)] * 2
    assert any(layer.keys != layer.values for layer in grouping)
    mine, baseline, parent = metrics["results"]["converted"], metrics["results"]["neighbour"], metrics["parent"]
    assert mine["kv_bytes_per_token"] == baseline["kv_bytes_per_token"] == parent["kv_bytes_per_token"] / 2
    assert mine["parameters"] == baseline["parameters"] and mine["kl"] < baseline["kl"]
    assert metrics["checkpoint"]["layout"] == "ragged"
    written = AutoModelForCausalLM.from_pretrained(folder.model, trust_remote_code=True)
    assert kv_bytes_per_token(written) == mine["kv_bytes_per_token"]
    assert count_parameters(written) == mine["parameters"]
    materialize(Workspace(materialize_config(folder.path, {})), document, tmp_path / "again")
    first, second = (load_file(path / "model.safetensors") for path in (folder.model, tmp_path / "again"))
    assert all((first[name] == second[name]).all() for name in first)
    work = Workspace(evaluation_config(folder.path, {}))
    subject = checkpoint_subject(work, folder.model, trust_remote_code=True)
    assert measure(work, {"converted": subject}, is_run=False)["results"]["converted"]["kl"] == mine["kl"]


def test_without_a_checkpoint_the_figures_are_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for name, written in (("with", True), ("without", False)):
        folder = finished(settings, tmp_path / name, materialize=written, kv_heads=2)
        found.append(json.loads(folder.metrics.read_text())["results"]["converted"])
    assert found[0]["kl"] == pytest.approx(found[1]["kl"], rel=1e-3)
    for figure in ("kv_bytes_per_token", "parameters"):
        assert found[0][figure] == found[1][figure]


def test_every_head_on_both_sides_is_the_parent(settings: dict[str, Any], tmp_path: Path) -> None:
    metrics = json.loads(finished(settings, tmp_path / "run", kv_ratio=1.0).metrics.read_text())
    mine, parent = metrics["results"]["converted"], metrics["parent"]
    assert mine["kl"] < 1e-9 and mine["kv_bytes_per_token"] == parent["kv_bytes_per_token"]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "asymgqa", "method_parameters": {"iterations": 2}, "fitness_parameters": {"tokens": 128}},
        {"objectives": ["kl"], "merge": "mean", "method_parameters": {**SMALL, "population": 4, "generations": 2}},
        {"objectives": ["weight-sharing-error"], "merge": "aligned-renorm", "method": "exact", "certify": True},
        {"objectives": ["activation-cosine"], "merge": "weighted-mean", "equal_sizes": True},
        {"objectives": ["attention-output-error"], "merge": "medoid", "method": "neighbour"},
    ],
    ids=["asymgqa", "kl", "exact", "equal-sizes", "attention-output-error"],
)
def test_methods_and_fitness_functions(settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = finished(settings, tmp_path / "run", **{"refine": "none", **changes})
    document, metrics = read_grouping(folder.grouping), json.loads(folder.metrics.read_text())
    assert document.partitions.kv_heads_total == 12 and document.kv_ratio == 0.5
    assert metrics["checkpoint"]["layout"] == "ragged"
    if changes.get("certify"):
        assert all(layer.proven_optimal for layer in document.layers)


def test_workers_are_told_of_both_partitions(settings: dict[str, Any]) -> None:
    """A fitness that is built from what is sent to a worker gives the value that one of this process does."""
    few = {"objectives": ["kl"], "fitness_parameters": {"tokens": 128}, "merge": "mean", "refine": "none"}
    work = Workspace(build_config({**settings, **few, "separate_kv": True}))
    candidate = Grouping.from_labels([[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 2, 2], [0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 2]])
    (own,) = work.prepared(work.fitnesses["kl"]).evaluate([candidate])
    assert blueprint_of(work, 1).prepare()["kl"].evaluate([candidate]) == pytest.approx([own], rel=1e-6)


def test_uneven_is_split_by_what_the_model_loses(settings: dict[str, Any], tmp_path: Path) -> None:
    """Layers and sides trade heads where the whole model is measured."""
    staged = {"method": "staged", "objectives": ["kl"], "method_parameters": {"generations": 2, "offspring": 4}}
    folder = finished(settings, tmp_path / "run", uneven=True, materialize=False, **staged)
    assert read_grouping(folder.grouping).partitions.kv_heads_total == 12


def test_stopped_and_gone_on_with_gives_the_same_bits(settings: dict[str, Any], tmp_path: Path) -> None:
    own = {**settings, "fitness": "kl", "kv_heads": 3, "search_tokens": 200, "merge": "mean"}
    few = ["--separate-kv", *(f"--set=method.{name}=6" for name in ("population", "offspring", "generations"))]
    process = forked.start(forked.command, [*words(own, tmp_path / "killed"), *few], tmp_path / "errors")
    kill_after(process, tmp_path / "killed", 2)
    assert not (tmp_path / "killed" / "grouping.json").exists()
    for name in ("killed", "whole"):
        assert CliRunner().invoke(app, [*words(own, tmp_path / name), *few]).exit_code == 0
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    assert killed.grouping.read_bytes() == whole.grouping.read_bytes() and history_of(whole) == history_of(killed)
    weights = [(folder.model / "model.safetensors").read_bytes() for folder in (whole, killed)]
    assert weights[0] == weights[1]


def test_a_front_of_kl_against_the_cache(settings: dict[str, Any], tmp_path: Path) -> None:
    """Every point has both partitions of every layer, and the report finds the one that was taken."""
    few = {"method": "evolution", "method_parameters": {"population": 6, "offspring": 6, "generations": 3}}
    own = {**few, "objectives": ["kl", "kv-ratio"], "merge": "mean", "refine": "none"}
    folder = finished(settings, tmp_path / "run", report=True, **own)
    points, document = json.loads(folder.pareto.read_text())["points"], read_grouping(folder.grouping)
    assert all(set(layer) == {"keys", "values"} for point in points for layer in point["layers"])
    taken = json.loads(folder.grouping.read_text())["layers"]
    assert taken in [point["layers"] for point in points] and document.partitions.kv_heads_total <= 12
    assert report_data([folder]).front.chosen is not None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"join": 2}, "separate_kv does not go with join"),
        ({"tensor_parallel": 2}, "separate_kv does not go with tensor_parallel"),
        ({"uneven": True}, "--separate-kv with --uneven needs a fitness that measures the whole model"),
        ({"kv_budget": 10}, "--separate-kv with --kv-budget needs a fitness that measures the whole model"),
        ({"objectives": ["merge-error", "kv-ratio"]}, "--separate-kv with objective kv-ratio needs a fitness"),
        ({"method": "qcqa-ac"}, "--separate-kv: method qcqa-ac splits the budget by summed errors"),
        ({"layout": "stock"}, "layout stock: keys and values were grouped apart"),
        ({"layout": "deci"}, "layout deci: keys and values were grouped apart"),
        ({"target": "llama.cpp"}, "target llama.cpp: keys and values were grouped apart"),
    ],
)
def test_refusals(settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        finished(settings, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_an_encoder_has_no_checkpoint_of_that_kind(settings: dict[str, Any], tmp_path: Path) -> None:
    model = save_encoder(tiny_encoder("bert"), tmp_path / "model")
    own = {**settings, "model": str(model)}
    with pytest.raises(UserError, match=r"BertForMaskedLM has no layout for keys and values .*--no-materialize"):
        finished(own, tmp_path / "run")
    metrics = json.loads(finished(own, tmp_path / "run", materialize=False).metrics.read_text())
    mine, parent = metrics["results"]["converted"], metrics["parent"]
    assert mine["kv_bytes_per_token"] == parent["kv_bytes_per_token"] / 2 and mine["kl"] > 0


def test_other_verbs_work_or_say_why_not(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", refine="none", merge="mean", kv_heads=2, report=True)
    runner, grouping = CliRunner(), str(folder.grouping)
    for works in (
        ["validate", grouping, "--model", str(settings["model"])],
        ["evaluate", str(folder.path), "--trust-remote-code", "--json"],
        ["materialize", str(folder.path), "--output-dir", str(tmp_path / "again")],
        ["export", grouping, "--format", "frame-csv"],
        ["heal", str(folder.path), "--output-dir", str(tmp_path / "healed"), "--steps=2"],
        ["report", str(folder.path), "--output", str(tmp_path / "page.html")],
        [
            "search",
            *(f"--{name.replace('_', '-')}={value}" for name, value in settings.items()),
            "--separate-kv",
            "--dry-run",
        ],
    ):
        done = runner.invoke(app, works)
        assert done.exit_code == 0, (works, done.output)
    healed, mine = (json.loads((path / "metrics.json").read_text()) for path in (tmp_path / "healed", folder.path))
    assert healed["results"]["healed"]["kv_bytes_per_token"] == mine["results"]["converted"]["kv_bytes_per_token"]
    for refuses in (
        *(["export", grouping, "--format", form] for form in ("labels-csv", "head-map", "head-clusters", "npz")),
        *(["export", grouping, "--format", form] for form in ("kv-heads-per-layer", "block-configs")),
        ["materialize", grouping, "--output-dir", str(tmp_path / "stock"), "--layout", "stock"],
        ["heal", str(folder.path), "--output-dir", str(tmp_path / "slow"), "--steps=2", "--progressive=0.5"],
    ):
        done = runner.invoke(app, refuses)
        assert done.exit_code == 2 and "Traceback" not in done.output, (refuses, done.output)
        assert "keys and values" in " ".join(done.stderr.split()), done.stderr

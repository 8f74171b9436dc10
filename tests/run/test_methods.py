"""Methods as a run drives them: presets, certificates, what is refused and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gqasearch.config import PRESETS, build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import evaluate_quality, model_runner
from gqasearch.fitness import make_fitness
from gqasearch.grouping_document import LayerRecord, read_grouping
from gqasearch.run import RunFolder, report_data, run
from gqasearch.run.listener import RunListener
from gqasearch.searching import available_methods
from gqasearch.steps import Workspace
from gqasearch.steps.certify import certificate_words
from gqasearch.steps.check_settings import check_settings
from tests.matrix import nightly
from tests.run.test_run import history_of
from tests.tiny_models import save_checkpoint, tiny_model

STAGED: dict[str, Any] = {"method": "staged", "baseline": False, "materialize": False}
BRIEF = {"population": 2, "offspring": 4, "generations": 2, "first_tokens": 32, "sensitivity_levels": 2}
SHORT: dict[str, dict[str, Any]] = {
    "qcqa-ac": {"population": 8, "generations": 10},
    "qcqa-ec": {"population": 8, "generations": 10},
    "asymgqa": {"iterations": 2},
    "staged": BRIEF,
}
WSE = {"objectives": ["weight-sharing-error"], "merge": "mean"}


def finished(settings: dict[str, Any], folder: Path, *, report: bool = False, **changes: Any) -> RunFolder:
    return run(build_config({**settings, **changes}), folder, report=report)


@pytest.mark.parametrize("method", PRESETS)
def test_a_preset_brings_its_fitness_and_merge(settings: dict[str, Any], tmp_path: Path, method: str) -> None:
    folder = finished(settings, tmp_path / "run", method=method, method_parameters=SHORT[method], refine="none")
    document = read_grouping(folder.grouping)
    assert document.fitness is not None and [document.fitness.name] == list(PRESETS[method]["objectives"])
    assert document.merge is not None and document.merge.name == PRESETS[method].get("merge", "optimal")
    assert document.grouping.kv_heads_total <= 6
    if method == "qcqa-ec":
        assert all(layer.grouping.is_equal_cardinality for layer in document.layers)
    assert method in report_data([folder]).results[-1].label


def test_what_the_user_names_goes_before_the_preset() -> None:
    config = build_config({"method": "qcqa-ac", "merge": "optimal", "objectives": ["activation-cosine"]})
    assert (config.merge, config.objectives) == ("optimal", ("activation-cosine",))
    assert set(PRESETS) <= set(available_methods())


@pytest.mark.parametrize("fitness", ["weight-sharing-error", nightly("merge-error")])
def test_certificates(settings: dict[str, Any], tmp_path: Path, fitness: str) -> None:
    changes = {"objectives": [fitness], "materialize": False, "baseline": False, "refine": "none"}
    exact = finished(settings, tmp_path / "exact", method="exact", **changes)
    poor = finished(settings, tmp_path / "poor", method="neighbour", certify=True, **changes)
    for best, layer in zip(read_grouping(exact.grouping).layers, read_grouping(poor.grouping).layers, strict=True):
        assert best.proven_optimal and best.error == pytest.approx(best.lower_bound, rel=1e-8)
        assert layer.lower_bound == pytest.approx(best.error, rel=1e-8) and layer.lower_bound <= (layer.error or 0)
        assert layer.proven_optimal is (layer.grouping == best.grouping)
    found = finished(settings, tmp_path / "found", certify=True, report=True, **changes)
    certificate = certificate_words(read_grouping(found.grouping))
    assert certificate is not None and certificate.startswith("2 of 2 layers proven")
    assert "An error marked * is proven" in found.report.read_text()


def test_an_exact_split_of_a_moving_budget(settings: dict[str, Any], tmp_path: Path) -> None:
    changes = {"kv_budget": 7, "materialize": False, "baseline": False, "max_group_size": 4, **WSE}
    folders = [finished(settings, tmp_path / method, method=method, **changes) for method in ("exact", "evolution")]
    documents = [read_grouping(folder.grouping) for folder in folders]
    assert documents[0].grouping == documents[1].grouping
    assert all(layer.proven_optimal for layer in documents[0].layers)
    assert certificate_words(documents[1]) is None


def test_a_front_of_a_sum_is_exact(settings: dict[str, Any], tmp_path: Path) -> None:
    changes = {"objectives": ["weight-sharing-error", "kv-ratio"], "merge": "mean", "materialize": False}
    folder = finished(settings, tmp_path / "run", method="exact", **changes)
    points = json.loads(folder.pareto.read_text())["points"]
    assert [point["kv_heads_total"] for point in points] == list(range(2, 13))
    assert [point["values"][0] for point in points] == sorted((p["values"][0] for p in points), reverse=True)
    assert read_grouping(folder.grouping).grouping.kv_heads_total == 6


@pytest.mark.parametrize("merge", [nightly("optimal"), "mean"])
def test_staged_evolution_splits_the_budget_by_running_the_model(
    settings: dict[str, Any], tmp_path: Path, merge: str
) -> None:
    """``mean`` needs no statistics itself; the guide does, and the report says that the text was used."""
    changes = {**STAGED, "objectives": ["kl"], "merge": merge, "uneven": True, "refine": "none"}
    folder = finished(settings, tmp_path / "run", **changes, method_parameters=BRIEF)
    document = read_grouping(folder.grouping)
    assert document.grouping.kv_heads_total == 6
    assert document.search is not None and document.search.evaluations > 4
    work = Workspace(folder.read_config())
    value = make_fitness("kl").prepare(work.context()).evaluate([document.grouping])[0]
    assert document.fitness is not None and document.fitness.value == value > 0
    texts = json.loads(folder.metrics.read_text())["texts"]
    assert texts["search"]["used"] and texts["statistics"]["used"]


def test_the_last_line_of_the_history_is_what_the_refined_model_loses(settings: dict[str, Any], tmp_path: Path) -> None:
    changes = {**STAGED, "objectives": ["kl"], "merge": "mean", "uneven": True, "refine": "outputs"}
    folder = finished(settings, tmp_path / "run", **changes, method_parameters=BRIEF)
    lines = [json.loads(line) for line in folder.history.read_text().splitlines()]
    work, document = Workspace(folder.read_config()), read_grouping(folder.grouping)
    refined = work.converter.refine(document.grouping, work.blocks("calibration"), work.refinement)
    runner = work.converter.runner(document.grouping, refined)
    _, found = evaluate_quality(model_runner(work.parent.model), {"refined": runner}, work.blocks("search"))
    assert lines[-1]["final"] == pytest.approx(found["refined"].kl, rel=1e-4)
    assert not any("final" in line for line in lines[:-1])


class Stop(RunListener):
    """Ends a run after its second generation."""

    def on_generation(self, record: Mapping[str, Any]) -> None:
        if record["generation"] == 1:
            raise KeyboardInterrupt


@pytest.mark.nightly
def test_staged_evolution_by_healed_kl_goes_on_to_the_same_bits(settings: dict[str, Any], tmp_path: Path) -> None:
    """By objective or as the fitness of another method; what was remembered of candidates is computed anew."""
    few = {"steps": 2, "step_tokens": 64}
    staged = {**STAGED, "uneven": True, "refine": "outputs", "method_parameters": {**BRIEF, "generations": 3}}
    evolution = {"method": "evolution", "method_parameters": {"population": 4, "generations": 3}, "refine": "none"}
    for name, changes in {"staged": staged, "evolution": evolution}.items():
        own = {**STAGED, **changes, "objectives": ["healed-kl"], "fitness_parameters": few, "merge": "mean"}
        whole = finished(settings, tmp_path / name / "whole", **own)
        with pytest.raises(KeyboardInterrupt):
            run(build_config({**settings, **own}), tmp_path / name / "stopped", listeners=[Stop()])
        resumed = finished(settings, tmp_path / name / "stopped", **own)
        assert resumed.grouping.read_bytes() == whole.grouping.read_bytes()
        assert history_of(resumed) == history_of(whole)
    document = read_grouping(whole.grouping)
    value = (
        make_fitness("healed-kl", few)
        .prepare(Workspace(whole.read_config()).context())
        .evaluate([document.grouping])[0]
    )
    assert document.fitness is not None and document.fitness.value == value > 0


def test_staged_evolution_finds_a_front_by_perplexity(settings: dict[str, Any], tmp_path: Path) -> None:
    changes = {**STAGED, "objectives": ["perplexity", "kv-ratio"], "merge": "mean", "refine": "none"}
    folder = finished(settings, tmp_path / "run", **changes, method_parameters={**BRIEF, "population": 4})
    points = json.loads(folder.pareto.read_text())["points"]
    assert len(points) > 1 and len({point["kv_heads_total"] for point in points}) == len(points)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "exact", "objectives": ["kl"]}, "exact needs one fitness that is a sum over groups"),
        ({"method": "qcqa-ac", "objectives": ["perplexity"]}, "qcqa-ac needs one fitness that is a sum"),
        ({"certify": True, "objectives": ["kl"]}, "--certify needs one fitness that is a sum over groups, got kl"),
        ({"method": "qcqa-ec", "equal_sizes": True}, "decides group sizes itself; leave equal_sizes out"),
        ({"method": "random", "objectives": ["kl", "kv-ratio"]}, "method random takes one objective"),
        ({"method": "asymgqa", "kv_budget": 7, "objectives": ["kl", "kv-ratio"]}, "asymgqa takes one objective"),
        ({"method": "hill-climb", "method_parameters": {"swap": 3}}, "did you mean 'swaps'"),
        (
            {**STAGED, "objectives": ["merge-error"]},
            r"staged needs a first objective that runs the model \(kl, healed-kl, perplexity\), got merge-error",
        ),
    ],
)
def test_what_a_method_cannot_take_is_refused(
    settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        finished(settings, tmp_path / "run", **changes)


def test_an_objective_that_does_not_run_the_model_is_refused_before_any_work(settings: dict[str, Any]) -> None:
    work = Workspace(build_config({**settings, **STAGED, "objectives": ["weight-sharing-error", "kv-ratio"]}))
    with pytest.raises(UserError, match=r"runs the model \(kl, healed-kl, perplexity\), got weight-sharing-error"):
        check_settings(work)
    assert "statistics" not in vars(work)


def test_similarity_counts_as_use_of_the_calibration_text(settings: dict[str, Any]) -> None:
    assert "statistics" in Workspace(build_config({**settings, "method": "asymgqa"})).needs()
    assert "statistics" not in Workspace(build_config({**settings, "method": "qcqa-ac"})).needs()


def test_certificates_in_words(settings: dict[str, Any], tmp_path: Path) -> None:
    from dataclasses import replace

    document = read_grouping(
        finished(settings, tmp_path / "r", method="neighbour", materialize=False, baseline=False).grouping
    )
    assert certificate_words(document) is None
    one, two = (layer.grouping for layer in document.layers)
    half = replace(document, layers=(LayerRecord(one, 2.0, True, 2.0), LayerRecord(two, 2.0, False, 1.9)))
    assert (certificate_words(half) or "").endswith("1 more within 5% of it")
    blind = replace(document, layers=(LayerRecord(one, 2.0, False), LayerRecord(two, 2.0, False)))
    assert (certificate_words(blind) or "").endswith("nothing proven of 2")


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"uneven": True},
        {"kv_budget": 2},
        {"objectives": ["weight-sharing-error", "kv-ratio"]},
        {"method": "staged", "method_parameters": BRIEF, "uneven": True},
        {"method": "exact", "uneven": True},
    ],
    ids=["even", "uneven", "budget", "front", "staged", "exact"],
)
def test_a_model_of_one_layer_is_a_model(asked: dict[str, Any], settings: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tiny_model("llama", layers=1), tmp_path / "model")
    asked = {"refine": "none", "baseline": False, **settings, **asked, "model": str(tmp_path / "model")}
    folder = finished(asked, tmp_path / "run")
    assert len(read_grouping(folder.grouping).layers) == 1 and folder.metrics.is_file()

"""Fitness functions and whole runs on an encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForMaskedLM
from typer.testing import CliRunner

from gqasearch.calibration import collect
from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter, evaluate_quality, model_runner
from gqasearch.fitness import FitnessContext, PreparedFitness, available_fitness, make_fitness
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import read_grouping
from gqasearch.merging import Merge, make_merge
from gqasearch.models import Parent
from gqasearch.refining import NoRefinement, Refinement, make_refinement
from gqasearch.run import run
from gqasearch.run.pipeline import own_subject
from gqasearch.steps import Workspace
from gqasearch.steps.convert import document_converter, document_refinement
from gqasearch.steps.measure import grouping_subject
from gqasearch.testing import InMemoryStatistics
from tests.samples import text_file
from tests.tiny_encoders import encoder_parent, masked_blocks, save_encoder, tiny_encoder

UNEVEN = Grouping.from_labels([[0, 1, 0, 0, 1, 0], [0, 1, 2, 1, 3, 1]])
SINGLE, SHARED = (Grouping.from_labels([row] * 2) for row in (list(range(6)), [0] * 6))


@pytest.fixture(scope="module")
def parent() -> Parent:
    return encoder_parent("roberta")


@pytest.fixture(scope="module")
def statistics(parent: Parent, tmp_path_factory: pytest.TempPathFactory) -> InMemoryStatistics:
    return InMemoryStatistics(list(collect(parent, masked_blocks(blocks=20), tmp_path_factory.mktemp("statistics"))))


def prepared(
    parent: Parent,
    statistics: InMemoryStatistics,
    name: str,
    merge: Merge | None = None,
    refinement: Refinement | None = None,
) -> PreparedFitness:
    context = FitnessContext(
        parent,
        merge or make_merge("optimal"),
        lambda: statistics,
        lambda: masked_blocks(seed=1, padded=True),
        lambda: masked_blocks(blocks=20),
        refinement or NoRefinement(),
    )
    return make_fitness(name).prepare(context)


@pytest.mark.parametrize("name", sorted(available_fitness()))
def test_more_sharing_is_worse(name: str, parent: Parent, statistics: InMemoryStatistics) -> None:
    values = prepared(parent, statistics, name, make_merge("mean")).evaluate([SINGLE, UNEVEN, SHARED])
    assert np.isfinite(values).all()
    assert values[0] < values[2]
    if name != "perplexity":  # which a random model may better by chance
        assert values[0] == pytest.approx(0.0, abs=1e-6) and values[1] < values[2]


@pytest.mark.parametrize("name", ["kl", "perplexity"])
def test_is_what_evaluation_measures(name: str, parent: Parent, statistics: InMemoryStatistics) -> None:
    runner = Converter(parent, make_merge("optimal"), lambda: statistics).runner(UNEVEN)
    blocks = masked_blocks(seed=1, padded=True)
    _, found = evaluate_quality(model_runner(parent.model), {"uneven": runner}, blocks)
    value = prepared(parent, statistics, name).evaluate([UNEVEN])[0]
    assert value == pytest.approx(getattr(found["uneven"], name), rel=1e-4)


def test_candidates_are_refined_as_the_result_will_be(parent: Parent, statistics: InMemoryStatistics) -> None:
    refined = prepared(parent, statistics, "kl", refinement=make_refinement("descent", {"steps": 5}))
    plain = prepared(parent, statistics, "kl")
    assert refined.evaluate([UNEVEN])[0] < plain.evaluate([UNEVEN])[0]
    assert refined.evaluate_refined([UNEVEN])[0] < plain.evaluate([UNEVEN])[0]  # type: ignore[attr-defined]


def test_the_modelled_error_is_near_the_measured_one(parent: Parent, statistics: InMemoryStatistics) -> None:
    """Merge errors are worked out from moments of the attention that looks both ways."""
    modelled, measured = (
        prepared(parent, statistics, name).evaluate([UNEVEN, SHARED])
        for name in ("merge-error", "attention-output-error")
    )
    assert np.all(np.abs(np.log(modelled / measured)) < np.log(2))


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(save_encoder(tiny_encoder("bert"), tmp_path / "bert")),
        "calibration_text": str(text_file(tmp_path)),
        "block_length": 32,
        "calibration_tokens": 1000,
        "search_tokens": 300,
        "evaluation_tokens": 600,
        "refine_parameters": {"steps": 5},
        "uneven": True,
    }


def test_a_whole_run(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    folder = run(build_config(settings), tmp_path / "run")
    document, metrics = read_grouping(folder.grouping), json.loads(folder.metrics.read_text())
    assert document.grouping.kv_heads_total == 6
    assert "pseudo-perplexity" in metrics["convention"] and "There is no KV cache" in metrics["convention"]
    assert metrics["checkpoint"]["layout"] == "ragged"
    mine, own = metrics["results"]["converted"], metrics["parent"]
    assert 2 * mine["kv_bytes_per_token"] == own["kv_bytes_per_token"] == 2 * 2 * 6 * 8 * 4
    assert mine["parameters"] == own["parameters"] - 6 * 2 * 8 * (48 + 1)
    assert set(mine["embedding_cosine"]) == {"plain", "masked"}
    assert all(0.9 < cosine < 1 for cosine in mine["embedding_cosine"].values())
    assert mine["embedding_cosine"]["plain"] > metrics["results"]["neighbour"]["embedding_cosine"]["plain"]
    assert "cosine of sentence embeddings to the parent's, plain text" in (folder.model / "README.md").read_text()
    assert "cosine" in folder.report.read_text()
    assert mine["kl"] < 0.2 * metrics["results"]["neighbour"]["kl"]
    assert "keys and values computed, bytes per token" in (folder.model / "README.md").read_text()
    assert "0.5 of the keys and values" in folder.report.read_text()
    model = AutoModelForMaskedLM.from_pretrained(folder.model, trust_remote_code=True)
    assert [layer.attention.self.key.out_features for layer in model.bert.encoder.layer] == [
        8 * count for count in document.grouping.group_counts
    ]
    work = Workspace(build_config(settings))
    converter = document_converter(work, document)
    layers = converter.refine(
        document.grouping, work.blocks("calibration"), document_refinement(work, document), batch_blocks=8
    )
    subject = grouping_subject(work, converter, document.grouping, layers)
    written = own_subject(work, folder.model)
    assert subject.kv_bytes_per_token == written.kv_bytes_per_token and subject.parameters == written.parameters
    blocks = masked_blocks(padded=True)
    difference = (written.runner(blocks.ids, blocks.mask) - subject.runner(blocks.ids, blocks.mask))[blocks.mask]
    assert float(difference.abs().max()) <= 5e-5
    arguments = ["evaluate", str(folder.path), "--parent", settings["model"], "--block-length", "32", "--json"]
    arguments += ["--calibration-text", settings["calibration_text"], "--evaluation-tokens", "600"]
    assert "Give --trust-remote-code" in CliRunner().invoke(app, arguments).output
    result = CliRunner().invoke(app, [*arguments, "--trust-remote-code"])
    assert json.loads(result.stdout)["results"]["converted"]["kl"] == pytest.approx(mine["kl"], rel=1e-6)


@pytest.mark.parametrize("changes", [{"block_length": 200}, {"target": "vllm"}])
def test_what_cannot_be_is_refused_before_the_search(
    changes: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"beyond this model's context of 130|loads no converted checkpoint"):
        run(build_config(settings | changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""Whole runs whose layers end with different numbers of KV heads: a checkpoint is written and measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import ParentLayers, WholeModel, cached_kv_heads, evaluate_quality, model_runner
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord, MergeRecord, read_grouping
from gqasearch.models import model_record
from gqasearch.run import RunFolder, run
from gqasearch.run.pipeline import own_subject
from gqasearch.steps import Workspace
from gqasearch.steps.convert import document_converter, document_refinement, materialize
from gqasearch.steps.measure import checkpoint_subject, grouping_subject
from tests.samples import random_blocks

SMALL = {"population": 8, "offspring": 8, "generations": 4}
WSE = "weight-sharing-error"
UNEVEN = {"kv_budget": 7, "method_parameters": SMALL, "baseline": False}


def finished(settings: dict[str, Any], folder: Path, *, report: bool = False, **changes: Any) -> RunFolder:
    return run(build_config({**settings, **changes}), folder, report=report)


def call(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and all output, on one line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, text: Path) -> tuple[RunFolder, list[str]]:
    """A run that wrote a ragged checkpoint, and the options that evaluate takes for it."""
    settings = {"model": str(checkpoint), "calibration_text": str(text), "block_length": 32}
    tokens = {"calibration_tokens": 1000, "search_tokens": 300, "evaluation_tokens": 600}
    folder = finished(settings | tokens, tmp_path_factory.mktemp("runs") / "run", **UNEVEN, layout="ragged")
    options = ["--parent", str(checkpoint), "--calibration-text", str(text), "--block-length", "32"]
    return folder, [*options, "--evaluation-tokens", "600"]


def test_a_run_with_uneven_counts_writes_and_measures_a_checkpoint(ragged: tuple[RunFolder, list[str]]) -> None:
    folder, _ = ragged
    grouping = read_grouping(folder.grouping).grouping
    assert grouping.kv_heads_total == 7 and len(set(grouping.group_counts)) == 2
    metrics = json.loads(folder.metrics.read_text())
    assert metrics["checkpoint"]["layout"] == "ragged"
    assert "KV heads, which no stock architecture can say" in metrics["checkpoint"]["reason"]
    result = metrics["results"]["converted"]
    assert result["kv_bytes_per_token"] * 12 == metrics["parent"]["kv_bytes_per_token"] * 7
    assert result["parameters"] == metrics["parent"]["parameters"] - 5 * 2 * 8 * 48  # K and V of 5 heads
    card = (folder.model / "README.md").read_text()
    assert f"{result['perplexity']:.5g}" in card and "trust_remote_code=True" in card


def test_its_checkpoint_is_the_parent_with_tied_heads(ragged: tuple[RunFolder, list[str]]) -> None:
    folder, _ = ragged
    work = Workspace(folder.read_config())
    document = read_grouping(folder.grouping)
    blocks = random_blocks(work.parent.config["vocab_size"])
    converter = document_converter(work, document)
    refined = converter.refine(document.grouping, work.blocks("calibration"), document_refinement(work, document))
    wanted = converter.runner(document.grouping, refined)(blocks.ids, blocks.mask)
    model = AutoModelForCausalLM.from_pretrained(folder.model, trust_remote_code=True)
    with torch.no_grad():
        torch.testing.assert_close(model(blocks.ids).logits, wanted, atol=5e-5, rtol=0)
    assert cached_kv_heads(model) == list(document.grouping.group_counts)


def test_evaluate_runs_code_of_a_folder_only_when_told(ragged: tuple[RunFolder, list[str]]) -> None:
    folder, options = ragged
    code, output = call("evaluate", folder.model, *options)
    assert code == 2 and "Give --trust-remote-code to run it" in output
    code, output = call("evaluate", folder.model, *options, "--trust-remote-code", "--json")
    assert code == 0
    again = json.loads(output)["results"]["converted"]["perplexity"]
    assert again == pytest.approx(json.loads(folder.metrics.read_text())["results"]["converted"]["perplexity"])


def test_search_says_which_layout_and_why(ragged: tuple[RunFolder, list[str]]) -> None:
    folder, _ = ragged
    code, output = call("search", "--config", folder.config, "--output-dir", folder.path)  # finished: it only reports
    assert code == 0 and "layout ragged: Layers have" in output and "which no stock architecture can say" in output


def test_code_that_changed_since_the_run_wrote_it_is_not_run(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", **UNEVEN, layout="ragged")
    folder.metrics.unlink()
    code = folder.model / "modeling_ragged.py"
    code.write_text("raise SystemExit('this ran')\n" + code.read_text())
    with pytest.raises(UserError, match=r"did not write \(modeling_ragged.py\); it is not run"):
        finished(settings, tmp_path / "run", **UNEVEN, layout="ragged")


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ([[0, 1, 0, 1, 1, 0], [0, 1, 2, 1, 3, 0]], "deci"),  # 8 query heads in place of 6
        ([[0, 1, 0, 0, 1, 0], [0, 1, 2, 1, 3, 1]], "ragged"),  # DeciLM would take 12
        ([[0, 1, 0, 0, 1, 0], [0, 1, 0, 1, 0, 1]], "stock-padded"),
    ],
)
def test_auto_is_measured_as_it_is_written(
    labels: list[list[int]], chosen: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Cache and parameters of the layout that auto takes, as the run measures them."""
    config = build_config({**settings, "kv_budget": 7, "baseline": False, "merge": "mean", "objectives": [WSE]})
    grouping = Grouping.from_labels(labels)
    work = Workspace(config)
    document = GroupingDocument(
        model_record(work.parent.id, work.parent), tuple(map(LayerRecord, grouping)), merge=MergeRecord("mean")
    )
    layout = materialize(work, document, tmp_path / "out").layout
    subject = own_subject(work, tmp_path / "out")
    assert layout.name == chosen
    assert subject.kv_bytes_per_token == 2 * grouping.kv_heads_total * 8 * 4
    assert isinstance(subject.runner, ParentLayers)
    runners = {"by layer": subject.runner, "whole": model_runner(subject.runner.parent.model)}
    _, found = evaluate_quality(ParentLayers(work.parent), runners, work.blocks("evaluation"))
    assert found["by layer"].kl == pytest.approx(found["whole"].kl, rel=1e-5)
    tied = grouping_subject(work, document_converter(work, document), grouping)
    assert subject.parameters == tied.parameters
    if chosen == "ragged":
        code = tmp_path / "out" / "modeling_ragged.py"
        code.write_text(code.read_text() + "# by somebody else\n")
        others = checkpoint_subject(work, tmp_path / "out", trust_remote_code=True)
        assert isinstance(others.runner, WholeModel)


def test_materialize_takes_a_layout_and_says_what_it_wrote(
    ragged: tuple[RunFolder, list[str]], checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    folder, _ = ragged
    common = ["materialize", folder.grouping, "--model", checkpoint, "--merge", "mean", "--calibration-text", text]
    code, output = call(*common, "--output-dir", tmp_path / "ragged", "--layout", "ragged")
    assert code == 0 and "ragged. Layers have" in output and "brings its own modelling file" in output
    code, output = call(*common, "--output-dir", tmp_path / "deci", "--layout", "deci", "--json")
    told = json.loads(output)
    assert code == 0 and told["layout"] == "deci" and "DeciLM can, with" in told["reason"]
    code, output = call(*common, "--output-dir", tmp_path / "stock", "--layout", "stock")
    assert code == 2 and "one number of KV heads for all layers" in output
    assert not (tmp_path / "stock").exists()
    code, output = call(*common, "--output-dir", tmp_path / "other", "--layout", "other")
    assert code == 2 and "'auto', 'stock', 'deci', 'ragged', 'mimo', 'openelm' or 'anymodel'" in output

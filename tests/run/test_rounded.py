"""``gqasearch evaluate --kv-bits``: a model and its parent with rounded KV caches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.evaluation import ParentLayers, RoundedLayers, evaluate_quality
from gqasearch.grouping_document import read_grouping
from gqasearch.rounding import parse_format
from gqasearch.run import RunFolder, run
from gqasearch.steps import Workspace
from gqasearch.steps.convert import document_converter
from tests.tiny_encoders import save_encoder, tiny_encoder
from tests.tiny_models import save_checkpoint, tiny_model

PLAIN = {"merge": "mean", "refine": "none", "objectives": ["weight-sharing-error"], "baseline": False}


def call(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and all output, on one line."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join(result.output.split())


def told(*arguments: str | Path) -> Any:
    result = CliRunner().invoke(app, [*(str(argument) for argument in arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, text: Path) -> RunFolder:
    """A run that wrote half the heads, unequal groups, in the layout that needs code."""
    settings = {"model": str(checkpoint), "calibration_text": str(text), "block_length": 32, "layout": "ragged"}
    tokens = {"calibration_tokens": 600, "search_tokens": 300, "evaluation_tokens": 600}
    small = {"method_parameters": {"population": 6, "offspring": 6, "generations": 2}}
    config = build_config({**settings, **tokens, **small, **PLAIN})
    return run(config, tmp_path_factory.mktemp("runs") / "run", report=False)


def test_a_run_and_its_parent(searched: RunFolder) -> None:
    found = told("evaluate", searched.path, "--kv-bits", "8,k8v2", "--trust-remote-code")
    whole = found["parent"]["kv_bytes_per_token"] / 2  # stored in float32
    assert found["parent"]["kv_share"] == 2 and found["results"]["converted"]["kv_share"] == 1
    rows = {(row["model"], row["format"]): row for row in found["rounded"]}
    assert list(rows) == [(model, cache) for cache in ("8", "k8v2") for model in ("parent", "converted")]
    heads = {"parent": 12, "converted": 6}
    for (model, cache), row in rows.items():
        bits = {"8": 8 + 8, "k8v2": 8 + 2}[cache]
        assert row["kv_bytes_per_token"] == heads[model] * (bits * 8 / 8 + 2 * 4)
        assert row["kv_share"] == row["kv_bytes_per_token"] / whole
        assert row["kl_interval"][0] <= row["kl"] <= row["kl_interval"][1]
    assert 0 < rows["parent", "8"]["kl"] < rows["parent", "k8v2"]["kl"]

    # The checkpoint caches six heads; the parent with tied heads rounds twelve, each like its group's others.
    config = build_config({**searched.read_config().model_dump(mode="json")})
    work, document = Workspace(config), read_grouping(searched.grouping)
    tied = document_converter(work, document).runner(document.grouping)
    stacks = {cache: RoundedLayers(tied, parse_format(cache)) for cache in ("8", "k8v2")}
    _, own = evaluate_quality(ParentLayers(work.parent), stacks, work.blocks("evaluation"))
    for cache, quality in own.items():
        assert rows["converted", cache]["kl"] == pytest.approx(quality.kl, rel=2e-3)
        assert rows["converted", cache]["perplexity"] == pytest.approx(quality.perplexity, rel=1e-4)


def test_a_model_that_was_not_converted(checkpoint: Path, text: Path) -> None:
    options = ["--calibration-text", text, "--block-length", "32", "--evaluation-tokens", "600"]
    found = told("evaluate", checkpoint, "--kv-bits", "8", *options)
    assert found["results"] == {} and [row["model"] for row in found["rounded"]] == ["parent"]
    code, output = call("evaluate", checkpoint, "--kv-bits", "8/16", *options)
    assert code == 0 and "KL: to the parent whose cache is not rounded" in output
    kept = found["rounded"][0]["kv_share"] / 2 + 0.5
    assert " 8/16 " in output and f" {kept:.3f} " in output


def test_refusals(searched: RunFolder, checkpoint: Path, text: Path, tmp_path: Path) -> None:
    encoder = save_encoder(tiny_encoder("bert"), tmp_path / "encoder")
    for arguments, said in (
        ((checkpoint, "--kv-bits", "q8_0"), "q8_0 takes heads whose size is a multiple of 32; this model's is 8"),
        ((searched.path, "--trust-remote-code", "--kv-bits", "q8_0"), "this model's is 8"),
        ((checkpoint, "--kv-bits", "q8_2"), "unknown cache format 'q8_2'; did you mean"),
        ((checkpoint, "--kv-bits", "8", "--tasks", "arc_easy"), "--tasks: no effect with --kv-bits"),
        ((encoder, "--kv-bits", "8"), "is an encoder: it has no KV cache"),
        ((tmp_path / "none", "--kv-bits", "8"), "none"),
    ):
        code, output = call("evaluate", *arguments, *(["--calibration-text", text] if arguments[0] != encoder else []))
        assert code == 2 and said in output, output


def test_joined_heads_may_fit_where_the_parents_do_not(tmp_path: Path, text: Path) -> None:
    source = save_checkpoint(tiny_model("llama", head_dim=16), tmp_path / "model")
    settings = {
        "model": str(source),
        "calibration_text": str(text),
        "block_length": 32,
        "join": 2,
        **PLAIN,
        "merge": "optimal",
    }
    tokens = {"calibration_tokens": 600, "search_tokens": 300, "evaluation_tokens": 300}
    folder = run(build_config({**settings, **tokens, "method": "neighbour"}), tmp_path / "run", report=False)
    found = told("evaluate", folder.path, "--kv-bits", "q4_0")
    (row,) = found["rounded"]
    assert row["model"] == "converted"
    stored = found["results"]["converted"]
    assert row["kv_bytes_per_token"] == stored["kv_bytes_by_format"]["q4_0"]
    assert row["kv_bytes_per_token"] == stored["kv_bytes_per_token"] / 4 * 18 / 32
    assert found["parent"]["kv_bytes_by_format"].keys() == {"fp8"}
    card = (folder.model / "README.md").read_text()
    assert "| KV cache in fp8, bytes per token |" in card and "q4_0" not in card

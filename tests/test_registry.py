"""Merges, search methods and layouts of other packages: a file each, found by name as fitness functions are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import gqasearch as gqs
from gqasearch.cli.app import app
from gqasearch.errors import UserError
from gqasearch.merging import make_merge

MERGE = """
from dataclasses import dataclass, replace
from gqasearch.merging import LayerMerge, Mean, Merge

@dataclass(frozen=True)
class Scaled(Merge):
    name, reference, summary = "scaled-mean", "-", "the mean, times a factor"
    factor: float = 1.0

    def for_layer(self, weights, statistics=None):
        return ScaledLayer(Mean().for_layer(weights), self.factor)

class ScaledLayer(LayerMerge):
    def __init__(self, mean, factor):
        super().__init__(mean.source, mean.statistics)
        self.mean, self.factor = mean, factor

    def merge_group(self, heads):
        group = self.mean.merge_group(heads)
        return replace(group, v=self.factor * group.v)
"""
LAYOUT = """
from dataclasses import dataclass, replace
from gqasearch.checkpoints import Stock

@dataclass(frozen=True)
class Noted(Stock):
    name, reference, summary = "noted", "-", "stock, its groups in config.json"

    def plan(self, grouping, geometry, config, takes):
        return replace(super().plan(grouping, geometry, config, takes), name=self.name)

    def config(self, grouped, layout, grouping, geometry):
        return grouped | {"groups": [[list(group) for group in layer.groups] for layer in grouping]}
"""
METHOD = """
from dataclasses import dataclass
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.searching import Generation, SearchMethod

@dataclass(frozen=True)
class Backwards(SearchMethod):
    name, reference, summary = "backwards", "-", "heads i and i + G share"

    def search(self, problem, rng):
        layers = [LayerGrouping.from_labels([h % g for h in range(problem.num_heads)]) for g in problem.budget.counts]
        best = problem.evaluate([Grouping(tuple(layers))])[0]
        yield Generation(0, 1, best, (best,))
"""


def install(folder: Path, group: str, name: str, code: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose module offers one class."""
    package = name.replace("-", "_")
    (folder / f"{package}_module.py").write_text(code)
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {package}_module:{kind}\n")
    monkeypatch.syspath_prepend(folder)


def test_a_search_method_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "gqasearch.methods", "backwards", METHOD, "Backwards", monkeypatch)
    parent = gqs.load("embedded", calibration_tokens=512, search_tokens=512, evaluation_tokens=512)
    found = gqs.search(parent, kv_ratio=0.5, method="backwards", fitness="weight-sharing-error", merge="mean")
    assert [layer.labels for layer in found.grouping] == [(0, 1, 2, 3, 4, 5) * 2] * 6
    rows = json.loads(CliRunner().invoke(app, ["ls", "methods", "--json"]).stdout)["methods"]
    assert {"backwards", "evolution"} <= {row["name"] for row in rows}


def test_a_merge_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "gqasearch.merges", "scaled-mean", MERGE, "Scaled", monkeypatch)
    assert make_merge("scaled-mean", {"factor": 0.5}).parameters() == {"factor": 0.5}
    parent = gqs.load("embedded", calibration_tokens=512, search_tokens=512, evaluation_tokens=512)
    pair = [gqs.neighbours(parent, 0.5)]
    same, half = (
        gqs.KL(tokens=512).evaluate(parent, pair, merge=make_merge("scaled-mean", {"factor": factor}))[0]
        for factor in (1.0, 0.5)
    )
    assert same == gqs.KL(tokens=512).evaluate(parent, pair, merge=gqs.Mean())[0] != half
    with pytest.raises(UserError, match=r"merge scaled-mean.*factr.*factor"):
        make_merge("scaled-mean", {"factr": 1})


def test_a_built_in_name_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path, "gqasearch.refinements", "descent", "from gqasearch.refining import Descent", "Descent", monkeypatch
    )
    with pytest.raises(
        UserError, match=r"refinement descent \(descent: .*gqasearch itself has a refinement of this name"
    ):
        gqs.search(gqs.load("embedded"), refine="descent")
    assert json.loads(CliRunner().invoke(app, ["ls", "refinements", "--json"]).stdout)


def test_a_layout_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = CliRunner().invoke(app, ["search", "--layout", "noted", "--dry-run"])
    assert refused.exit_code == 2 and "layout: must be 'auto', 'stock'" in refused.stderr
    install(tmp_path, "gqasearch.layouts", "noted", LAYOUT, "Noted", monkeypatch)
    parent = gqs.load("embedded", calibration_tokens=512, search_tokens=512, evaluation_tokens=512)
    found = gqs.search(parent, kv_ratio=0.5, method="neighbour", fitness="weight-sharing-error", merge="mean")
    written = found.save(tmp_path / "converted", layout="noted")
    config = json.loads((written / "config.json").read_text())
    assert config["groups"] == [[[2 * group, 2 * group + 1] for group in range(6)]] * 6
    assert AutoModelForCausalLM.from_pretrained(written).config.num_key_value_heads == 6
    rows = json.loads(CliRunner().invoke(app, ["ls", "layouts", "--json"]).stdout)["layouts"]
    assert {"noted", "stock", "ragged"} <= {row["name"] for row in rows}

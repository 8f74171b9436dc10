"""A whole comparison on a tiny model: both tables from the files alone, and resumed to the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, spearmanr, wilcoxon
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.comparison import ComparisonFolder, build_comparison, compare, comparison_data
from gqasearch.comparison.comparison_config import NO_SEARCH
from gqasearch.comparison.conditions import Condition, Entry
from gqasearch.comparison.ranking_tables import CEILING
from gqasearch.comparison.samples import read_sample
from gqasearch.errors import UserError
from gqasearch.files import read_json
from gqasearch.fitness import make_fitness
from gqasearch.grouping_document import read_grouping
from gqasearch.steps import Workspace
from gqasearch.steps.measure import grouping_subject, measure
from tests.comparison.conftest import FITNESS

HALF = Condition("optimal", 0.5)
SECONDS = ("seconds", "forward_tokens")  # of the machine and of what was running on it, not of the settings


def test_every_part_is_there(finished: ComparisonFolder) -> None:
    ranking, winners = pd.read_csv(finished.ranking), pd.read_csv(finished.winners)
    assert set(ranking["pool"]) == {"random", "top"}
    assert set(ranking["fitness"]) == {*FITNESS, CEILING}
    assert set(winners["fitness"]) == {*FITNESS, NO_SEARCH.label}
    assert winners["kl"].is_monotonic_increasing
    for name in ("correlations", "ranks-optimal-0.5", "winners"):
        assert (finished.path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "Does the fitness rank" in finished.report.read_text(encoding="utf-8")


def test_rows_of_the_ranking_are_correlations_of_the_sample(finished: ComparisonFolder) -> None:
    ranking, sample = pd.read_csv(finished.ranking), pd.read_csv(finished.sample_table)
    for _, row in ranking[ranking["fitness"] != CEILING].iterrows():
        part = sample[sample["pool"] == row["pool"]]
        pair = part[row["fitness"]], part[f"held_out_{row['quality']}"]
        assert row["spearman"] == pytest.approx(spearmanr(*pair).statistic)
        assert row["kendall"] == pytest.approx(kendalltau(*pair).statistic)
        assert row["groupings"] == len(part)


def test_the_sample_is_measured_as_a_run_would_be(finished: ComparisonFolder) -> None:
    """A grouping's fitness and quality are those of the model that a run of it would write."""
    config, sample = finished.read_config(), pd.read_csv(finished.sample_table)
    grouping = read_sample(finished.groupings(HALF, "random"))[3].grouping
    row = sample[(sample["pool"] == "random") & (sample["grouping"] == 3)].iloc[0]
    work = Workspace(config.ranked_config(HALF, "kl").model_copy(update={"evaluation_tokens": config.sample_tokens}))
    for name in FITNESS:
        assert make_fitness(name).prepare(work.context()).evaluate([grouping])[0] == pytest.approx(row[name])
    found = measure(work, {"one": grouping_subject(work, work.converter, grouping)})["results"]["one"]
    assert (row["held_out_kl"], row["held_out_perplexity"]) == pytest.approx((found["kl"], found["perplexity"]))


def test_top_groupings_are_the_winners_and_others_that_searches_met(finished: ComparisonFolder) -> None:
    pool = read_sample(finished.groupings(HALF, "top"))
    met_by = {one.grouping: one.met_by for one in pool}
    assert len(met_by) == len(pool)
    for name in FITNESS:
        winner = read_grouping(finished.run(HALF, Entry(name, "evolution"), 0).grouping)
        assert name in met_by[winner.grouping]
        assert sum(name in names for names in met_by.values()) == 2


def test_rows_of_the_winners_are_their_runs_and_pairs_are_the_same_blocks(finished: ComparisonFolder) -> None:
    winners = pd.read_csv(finished.winners).set_index("fitness")
    blocks = {}
    for name in FITNESS:
        runs = [finished.run(HALF, Entry(name, "evolution"), seed) for seed in (0, 1)]
        results = [read_json(one.metrics)["results"]["converted"] for one in runs]
        assert winners.loc[name, "kl"] == pytest.approx(np.mean([result["kl"] for result in results]))
        blocks[name] = np.mean([result["kl_blocks"] for result in results], axis=0)
    none = read_json(finished.run(HALF, NO_SEARCH, 0).metrics)["results"]["converted"]["kl_blocks"]
    raw = {name: wilcoxon(mine, none).pvalue for name, mine in blocks.items() if (mine != none).any()}
    for name, mine in blocks.items():
        assert winners.loc[name, "vs_no_search"] == pytest.approx(np.mean(mine - none))
        assert winners.loc[name, "vs_no_search_p"] >= raw.get(name, 1.0) - 1e-12
    lowest = min(raw, key=raw.__getitem__)
    assert winners.loc[lowest, "vs_no_search_p"] == pytest.approx(min(1, 3 * raw[lowest]))


def test_costs_are_those_of_the_search(finished: ComparisonFolder) -> None:
    winners = pd.read_csv(finished.winners).set_index("fitness")
    assert (winners.loc[["weight-sharing-error", "merge-error"], "forward_tokens"] == 0).all()
    # Blocks that differ in their first layer run whole: at least the text once, at most once for every evaluation.
    assert 128 <= winners.loc["kl", "forward_tokens"] <= 160 * (winners.loc["kl", "evaluations"] + 1)
    assert winners.loc["kl", "evaluations"] >= 40


class Killed(BaseException):
    """Ends everything at once, as a kill does; files are renamed into place, so a moment between two is any moment."""


def kill_at(monkeypatch: pytest.MonkeyPatch, write: int) -> None:
    """The process ends at this many renames."""
    left = [write]
    original = Path.replace

    def replace(self: Path, target: Any) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def comparable(path: Path) -> dict[str, Any]:
    """Everything that may not depend on where the work was stopped, by file."""
    found: dict[str, Any] = {}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.suffix == ".csv":
            frame = pd.read_csv(file)
            found[name] = frame.drop(columns=[column for column in SECONDS if column in frame]).to_csv()
        elif file.name in ("grouping.json", "top.json", "random.json", "comparison.yaml", "facts.json"):
            found[name] = file.read_text(encoding="utf-8")
    return found


def test_killed_again_and_again_it_ends_with_the_same_files(
    values: dict[str, Any], finished: ComparisonFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config, kills = ComparisonFolder(tmp_path / "killed"), build_comparison(values), 0
    for writes in (1, 7, 12, 20, 9, 11, 25):
        with monkeypatch.context() as patched:
            kill_at(patched, writes)
            try:
                compare(config, folder.path)
            except Killed:
                kills += 1
    compare(config, folder.path)
    assert kills >= 5
    assert comparable(folder.path) == comparable(finished.path)
    assert not list(folder.path.rglob("*.partial-*"))


def test_a_finished_comparison_makes_nothing_again(
    values: dict[str, Any], finished: ComparisonFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was measured again")

    monkeypatch.setattr("gqasearch.comparison.sample_quality.evaluate_quality", refuse)
    monkeypatch.setattr("gqasearch.steps.rounded_caches.measure", refuse)
    monkeypatch.setattr("gqasearch.comparison.searches.begun_search", refuse)
    before = comparable(finished.path)
    compare(build_comparison(values), finished.path)
    assert comparable(finished.path) == before


def test_another_configuration_is_refused_with_what_differs(values: dict[str, Any], finished: ComparisonFolder) -> None:
    other = build_comparison({**values, "sample": 7, "evaluations": None, "seconds": 3.0})
    with pytest.raises(UserError, match=r"sample was 6, is 7") as refused:
        compare(other, finished.path)
    assert "seconds was None, is 3.0" in str(refused.value)
    (finished.path.parent / "other").mkdir()
    (finished.path.parent / "other" / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds no comparison"):
        compare(build_comparison(values), finished.path.parent / "other")


def test_another_text_is_no_part_of_what_was_begun(
    values: dict[str, Any], finished: ComparisonFolder, tmp_path: Path
) -> None:
    begun, short = ComparisonFolder(tmp_path / "begun"), tmp_path / "short.txt"
    begun.path.mkdir()
    shutil.copy(finished.config, begun.config)
    facts = json.loads(finished.facts.read_text())
    facts["texts"]["search"]["fingerprint"] = "sha256:before"
    begun.facts.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="another search text under the same name"):
        compare(build_comparison(values), begun.path)
    short.write_text("too short")
    with pytest.raises(UserError, match="fewer than one block"):
        compare(
            build_comparison({**values, "run": {**values["run"], "calibration_text": str(short)}}), tmp_path / "new"
        )
    assert not (tmp_path / "new").exists()


def test_an_unfinished_comparison_says_what_is_missing(finished: ComparisonFolder, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished.path, tmp_path / "half")
    half = ComparisonFolder(tmp_path / "half")
    lines = half.values(HALF).read_text(encoding="utf-8").splitlines()
    half.values(HALF).write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="unfinished: kl of 1 groupings"):
        comparison_data(half)


def test_the_verb_prints_both_answers_and_json(values: dict[str, Any], finished: ComparisonFolder) -> None:
    import json

    path = finished.path.parent / "settings.yaml"
    path.write_text(build_comparison(values).to_yaml(), encoding="utf-8")
    shared = ["compare", "--config", str(path), "--output-dir", str(finished.path)]
    shown = CliRunner().invoke(app, shared)
    assert shown.exit_code == 0, shown.output
    for words in ("Does the fitness rank", "Does optimising it", "merge-error", "ceiling", "report"):
        assert words in shown.output
    told = CliRunner().invoke(app, [*shared, "--json"])
    assert {row["fitness"] for row in json.loads(told.stdout)["winners"]} == {*FITNESS, NO_SEARCH.label}
    refused = CliRunner().invoke(app, [*shared, "--kv-ratio", "0.34"])
    assert refused.exit_code == 2
    assert "kv_ratios was [0.5], is [0.34]" in refused.output

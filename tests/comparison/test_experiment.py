"""The committed comparison: made by the settings that are committed, whole, and shown by one command."""

from __future__ import annotations

import sys

import pandas as pd
import pytest

from experiments.compare import __main__ as command
from gqasearch.comparison import build_comparison
from gqasearch.comparison.ranking_tables import CEILING
from gqasearch.config import read_config_file
from gqasearch.fitness import available_fitness

# All but one that ranks models that will be trained, as these are not.
COMPARED = set(available_fitness()) - {"healed-kl", "hidden-error"}


@pytest.mark.parametrize("name", command.COMPARISONS)
def test_results_are_those_of_the_committed_settings(name: str) -> None:
    folder = command.RESULTS / name
    config = build_comparison(command.COMPARISONS[name])
    assert build_comparison(read_config_file(folder / "comparison.yaml")) == config
    assert set(config.fitness) == COMPARED
    ranking, sample = pd.read_csv(folder / "ranking.csv"), pd.read_csv(folder / "sample.csv")
    pools = 2 if config.seeds else 1
    settings = len(list(config.conditions()))
    assert len(ranking) == settings * pools * (2 * len(config.fitness) + 1)
    assert set(ranking["fitness"]) == {*config.fitness, CEILING}
    assert (sample[sample["pool"] == "random"].groupby(["merge", "kv_ratio"]).size() == config.sample).all()
    if config.seeds:
        winners = pd.read_csv(folder / "winners.csv")
        assert len(winners) == settings * (1 + len(config.fitness))
        assert set(winners["seeds"]) == {1, config.seeds}


def test_results_are_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["compare", "--show"])
    command.main()
    shown = capsys.readouterr().out
    for words in (*COMPARED, "KV ratio 0.5, mean", "KV ratio 0.25, optimal", "blind", "Does optimising"):
        assert words in shown

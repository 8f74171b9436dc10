"""What a user may ask for, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gqasearch.comparison import build_comparison
from gqasearch.comparison.comparison_config import DEFAULT_EVALUATIONS
from gqasearch.comparison.conditions import Condition, Entry
from gqasearch.comparison.searches import Plan
from gqasearch.errors import UserError
from gqasearch.fitness import available_fitness
from gqasearch.steps import ProcessCache


def test_nothing_asked_for_is_every_installed_fitness_and_a_budget_of_evaluations() -> None:
    config = build_comparison({})
    assert config.fitness == tuple(name for name in available_fitness() if name != "hidden-error")
    assert config.evaluations == DEFAULT_EVALUATIONS
    assert build_comparison({"seconds": 5}).evaluations is None


def test_the_file_of_a_comparison_makes_the_same_one() -> None:
    config = build_comparison({"fitness": ("kl",), "fitness_parameters": {"kl": {"tokens": 64}}, "seconds": 5.0})
    assert build_comparison(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fitness": ["merge-eror"]}, "did you mean 'merge-error'"),
        ({"merges": ["optimal", "optimum"]}, "did you mean 'optimal'"),
        ({"methods": ["evolutoin"]}, "did you mean 'evolution'"),
        ({"sample_refine": "output"}, "did you mean 'outputs'"),
        ({"fitness": ["kl", "kl"]}, "fitness must be one or more different values"),
        ({"evaluations": 10, "seconds": 3}, "evaluations or seconds, not both"),
        ({"evaluations": 0}, "evaluations: .* got 0"),
        ({"sample": 0, "seeds": 0}, "nothing to compare"),
        ({"sample": 2}, "at least 3"),
        ({"seed": 3}, "did you mean 'seeds'.*is a setting of runs; put it under run"),
        ({"kv_ratios": [0.5, 1.5]}, "kv_ratios must lie between 0 and 1, got 1.5"),
        ({"run": {"kv_heads": 3}}, "run.kv_heads is decided by the comparison: see kv_ratios"),
        ({"run": {"refnie": "none"}}, "did you mean 'refine'"),
        ({"fitness": ["kl"], "fitness_parameters": {"merge-error": {}}}, "'merge-error', which is not compared"),
        ({"fitness": ["kl"], "fitness_parameters": {"kl": {"token": 3}}}, "did you mean 'tokens'"),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_comparison(values)


def test_ranked_models_are_refined_cheaply_where_runs_descend() -> None:
    def refines(**values: Any) -> tuple[str, str]:
        config = build_comparison({"fitness": ["kl"], **values})
        condition = Condition(config.merges[0], 0.5)
        ranked = config.ranked_config(condition, "kl")
        assert ranked.refine == config.ranked_refine(condition)
        return config.refine(condition), config.ranked_refine(condition)

    assert refines() == ("descent", "outputs")
    assert refines(run={"refine": "joint"}) == ("joint", "outputs")
    assert refines(merges=["mean"]) == ("none", "none")
    assert refines(run={"refine": "outputs", "refine_parameters": {"ridge": 0.1}}) == ("outputs", "outputs")
    assert refines(sample_refine="none", run={"refine": "descent", "refine_parameters": {"steps": 5}})[1] == "none"


def test_budget_and_parameters_reach_the_runs() -> None:
    config = build_comparison(
        {
            "fitness": ["kl", "merge-error"],
            "fitness_parameters": {"kl": {"tokens": 64}},
            "methods": ["evolution", "random"],
            "method_parameters": {"random": {"samples": 9}},
            "evaluations": 70,
        }
    )
    made = config.run_config(Condition("mean", 0.25), Entry("kl", "random"), 4)
    assert (made.max_evaluations, made.max_seconds, made.seed, made.kv_ratio, made.merge) == (70, None, 4, 0.25, "mean")
    assert (made.fitness_parameters, made.method_parameters) == ({"tokens": 64}, {"samples": 9})
    assert config.run_config(Condition("mean", 0.25), Entry("merge-error", "evolution")).fitness_parameters == {}


def test_pairs_that_cannot_be_searched_are_left_out_and_said(values: dict[str, Any]) -> None:
    config = build_comparison({**values, "methods": ["evolution", "staged", "exact"]})
    plan = Plan.of(config, ProcessCache())
    taken = {(entry.fitness, entry.method) for entry in plan.entries}
    assert ("kl", "staged") in taken and ("merge-error", "exact") in taken
    assert ("kl", "exact") not in taken and ("merge-error", "staged") not in taken
    assert any("staged" in reason for reason in plan.left_out)
    assert any("exact" in reason for reason in plan.left_out)
    with pytest.raises(UserError, match="no method here searches weight-sharing-error"):
        Plan.of(build_comparison({**values, "methods": ["staged"]}), ProcessCache())


def test_a_ratio_that_does_not_fit_the_model_is_refused_first(values: dict[str, Any], tmp_path: Path) -> None:
    from gqasearch.comparison import compare

    wrong = build_comparison({**values, "kv_ratios": [0.5, 0.67], "run": {**values["run"], "equal_sizes": True}})
    with pytest.raises(UserError, match="groups of equal size"):
        compare(wrong, tmp_path / "none")
    assert not (tmp_path / "none").exists()

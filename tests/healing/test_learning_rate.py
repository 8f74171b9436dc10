"""The range test of learning rates, and settings that make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.errors import UserError
from gqasearch.healing import HealConfig, build_heal_config
from gqasearch.healing.rate_search import HIGHEST, LOWEST
from gqasearch.run.heal.rate_trials import try_learning_rates
from tests.healing.healed import converted, settings


def rate_settings(tmp_path: Path, **changes: Any) -> HealConfig:
    """Settings that the range test goes by."""
    given = settings(tmp_path).model_dump(include={"model", "parent", "text", "block_length", "batch_blocks"})
    return HealConfig(**{**given, **changes})


def test_the_suggested_rate_lies_where_the_loss_falls(tmp_path: Path) -> None:
    converted(tmp_path, "stock-padded")
    found = try_learning_rates(rate_settings(tmp_path))
    rates, losses = zip(*found.tried, strict=True)
    assert rates[0] == LOWEST and list(rates) == sorted(set(rates)) and rates[-1] <= HIGHEST
    assert LOWEST < found.suggested < rates[losses.index(min(losses))]
    assert min(losses) < losses[0]


def test_nothing_is_written(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric")
    before = sorted(tmp_path.rglob("*"))
    flags = ["--parent", str(tmp_path / "source"), "--text", str(tmp_path / "text.txt"), "--block-length", "32"]
    start = str(tmp_path / "start")
    result = CliRunner().invoke(app, ["heal", start, *flags, "--find-learning-rate", "--json"])
    assert result.exit_code == 0, result.output
    assert LOWEST < json.loads(result.stdout)["suggested"] < HIGHEST
    assert sorted(tmp_path.rglob("*")) == before


def test_settings_that_it_ignores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no use for patience"):
        try_learning_rates(rate_settings(tmp_path, patience=2))


@pytest.mark.parametrize("more", [[], ["--find-learning-rate", "--output-dir", "out"]])
def test_a_folder_is_named_to_train_and_only_then(more: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["heal", str(tmp_path), *more])
    assert result.exit_code == 2 and "give one of --output-dir" in result.output


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lora_rank": 4}, "lora_rank has no effect with train all"),
        ({"attention_weight": 1, "loss": "language-model"}, "attention_weight needs the parent"),
        ({"parent_top_k": 4, "loss": "language-model"}, "parent_top_k has no effect"),
        ({"progressive": 0.5, "train": "lora"}, "progressive trains the weights of attention themselves"),
        ({"progressive": 0.5, "attention_weight": 1}, "leave attention_weight and parent_top_k out"),
        ({"progressive": 0.5, "parent_top_k": 5}, "leave attention_weight and parent_top_k out"),
        ({"progressive": 0.5, "gradient_checkpointing": True}, "leave gradient_checkpointing out"),
        ({"text": "a.txt", "evaluation_text": "a.txt"}, "text and evaluation_text are both a.txt"),
        ({"batch_blocks": 6, "pass_blocks": 4}, "pass_blocks 4 does not divide batch_blocks 6"),
        ({"device": "cuda:1"}, "set CUDA_VISIBLE_DEVICES=1 and give device cuda"),
        ({"learning_rate": float("inf")}, "learning_rate: .*finite"),
        ({"weight_decay": float("inf")}, "weight_decay: .*finite"),
        ({"gradient_norm": float("nan")}, "gradient_norm"),
        ({"steps": 0}, "steps: .*greater than or equal to 1"),
        ({"stepps": 3}, "unknown setting 'stepps'; did you mean 'steps'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_heal_config({"model": "m", **values})

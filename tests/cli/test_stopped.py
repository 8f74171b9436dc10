"""SIGTERM, which schedulers send, ends a verb as Ctrl-C does; and a text that is short is said to be."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gqasearch.calibration import collect
from tests.cli.test_cli import SMALL, call
from tests.samples import text_file
from tests.tiny_models import save_checkpoint, tiny_model


@pytest.fixture(scope="module")
def small_search(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Few tokens of a text of 3,000, and no checkpoint."""
    model = save_checkpoint(tiny_model("llama"), tmp_path_factory.mktemp("model"))
    text = text_file(tmp_path_factory.mktemp("text"), 3000)
    settings = ["--model", str(model), "--calibration-text", str(text), "--block-length", "32", "--no-materialize"]
    return ["search", *settings, "--calibration-tokens", "600", "--evaluation-tokens", "300", *SMALL]


def test_sigterm_leaves_what_the_same_command_goes_on_from(
    small_search: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))

    def stopped(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for layer in collect(*args, **kwargs):
            yield layer
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("gqasearch.calibration.cache.collect", stopped)
    arguments = [*small_search, "--output-dir", str(tmp_path / "run")]
    result = call(*arguments)
    assert result.exit_code == 143 and "the same command goes on from here" in result.stderr
    (left,) = (tmp_path / "cache" / "statistics").iterdir()  # a pass that was stopped goes on at its layer
    assert left.name.startswith(".") and [path.name for path in left.glob("layer*")] == ["layer_000.safetensors"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.setattr("gqasearch.calibration.cache.collect", collect)
    assert call(*arguments).exit_code == 0
    (kept,) = (tmp_path / "cache" / "statistics").iterdir()
    assert not kept.name.startswith(".")


def test_a_short_text_is_said_to_be_before_the_work(
    small_search: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation part has some 900 of 2,000 tokens, the calibration part enough; the search part is not used."""
    search, said = "gqasearch.run.pipeline.search_step", []
    monkeypatch.setattr(search, lambda *_: said.extend(caplog.messages) or exit_now())
    arguments = [*small_search, "--evaluation-tokens", "2000", "--search-tokens", "5000"]
    call(*arguments, "--output-dir", str(tmp_path / "before"))
    assert len(said) == 1 and "evaluation part" in said[0] and "2000" in said[0]
    monkeypatch.undo()
    assert call(*arguments, "--output-dir", str(tmp_path / "run")).exit_code == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert f"has {metrics['texts']['reported']['tokens']} tokens, not the 2000 asked for" in metrics["warnings"][0]
    assert len(metrics["warnings"]) == 1


def exit_now() -> None:
    raise SystemExit

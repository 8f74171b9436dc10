"""What is said of the three texts of a run before it is run."""

from __future__ import annotations

from typing import Any

import pytest

from gqasearch.config import RunConfig
from gqasearch.embedded import SPLITS
from gqasearch.steps import Workspace
from gqasearch.steps.texts import scarce_words, shortages, used_texts


def test_a_short_text_is_said_to_be_where_it_is_used(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    wanted = settings | {"search_tokens": 10**6}
    assert shortages(Workspace(RunConfig(**wanted | {"objectives": ["merge-error"]}))) == []
    work = Workspace(RunConfig(**wanted | {"objectives": ["kl"]}))
    assert used_texts(work) == list(SPLITS)
    tokens = work.blocks("search").tokens
    (words,) = shortages(work)
    assert f"has {tokens} tokens, not the 1000000 asked for" in words
    assert caplog.messages == [f"warning: {words}"]  # once, however often it is looked at


def test_a_text_that_is_short_for_the_layers_is_told_of() -> None:
    """The embedded model's W_o has 12 heads of 16 inputs; wide heads have more."""
    words = scarce_words(Workspace(RunConfig(calibration_tokens=2048)))
    assert words is not None and "11 for each of the 192 inputs of W_o" in words
    assert scarce_words(Workspace(RunConfig(calibration_tokens=16_384))) is None
    assert scarce_words(Workspace(RunConfig(calibration_tokens=16_384, join=3))) is not None
    for changes in ({"refine": "none"}, {"kv_ratio": 1.0}, {"refine_parameters": {"validate": False}}):
        assert scarce_words(Workspace(RunConfig(calibration_tokens=2048, **changes))) is None

"""What is said of the three texts of a run before it is run."""

from __future__ import annotations

from typing import Any

import pytest

from gqasearch.config import RunConfig
from gqasearch.embedded import SPLITS
from gqasearch.steps import Workspace
from gqasearch.steps.texts import shortages, used_texts


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

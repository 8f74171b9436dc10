"""What is said of the three texts of a run before it is run."""

from __future__ import annotations

from typing import Any

import pytest

from gqasearch.config import RunConfig
from gqasearch.embedded import SPLITS
from gqasearch.run import Workspace
from gqasearch.run.texts import shortages, text_facts


def test_every_text_says_what_it_gives(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    work = Workspace(RunConfig(**settings | {"search_tokens": 10**6, "objectives": ["merge-error"]}))
    facts = text_facts(work)
    assert tuple(facts) == SPLITS
    for split, fact in facts.items():
        blocks = work.blocks(split)
        assert (fact.source, fact.found, fact.blocks) == (blocks.source, blocks.tokens, len(blocks.ids))
    assert [fact.wanted for fact in facts.values()] == [1000, 10**6, 600]
    assert [fact.used for fact in facts.values()] == [True, False, True]
    assert [fact.shortage is not None for fact in facts.values()] == [False, True, False]
    assert shortages(work) == []  # this run does not look at that one
    assert shortages(Workspace(RunConfig(**settings | {"search_tokens": 10**6, "objectives": ["kl"]}))) == [
        facts["search"].shortage
    ]
    assert len(caplog.messages) == 2  # once per workspace that cut it

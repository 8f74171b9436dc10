"""What attention is given is seen, whoever wrote the attention's class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gqasearch.checkpoints import joined_source
from gqasearch.models import enter, load_parent, resolve_model, run_layer
from gqasearch.models.attention_inputs import attention_noted
from tests.samples import random_blocks
from tests.tiny_models import save_checkpoint, tiny_model


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_keys_of_wide_heads_are_seen(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their attention is a class of ours that inherits from transformers'."""
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))
    model = tiny_model(family)
    wide = joined_source(resolve_model(str(save_checkpoint(model, tmp_path / "tiny"))), 2)
    parent = load_parent(str(wide.directory))
    blocks = random_blocks(model.config.vocab_size)
    entered = enter(parent, blocks.ids, blocks.mask)
    with torch.no_grad():
        plain = run_layer(parent, 0, entered.hidden, entered.arguments[0])
        with attention_noted(parent, 0) as calls:
            noted = run_layer(parent, 0, entered.hidden, entered.arguments[0])
    shape = parent.geometry
    assert [tuple(call.key.shape) for call in calls] == [
        (*blocks.ids.shape[:1], shape.num_kv_heads, 24, shape.head_dim)
    ]
    assert torch.equal(noted, plain)

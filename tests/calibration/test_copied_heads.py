"""Statistics of a model with heads twice are those that a pass over it would gather."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from gqasearch.calibration import load_or_collect
from gqasearch.calibration.copied_statistics import CopiedHeads
from gqasearch.checkpoints import write_with_copies
from gqasearch.models import load_parent, resolve_model
from tests.samples import random_blocks
from tests.tiny_models import VOCAB_SIZE, save_checkpoint, tiny_model

# Not what attention makes of x: every token stands for one head, in turn, and which one depends on how many there are.
ALIKE = ("mean", "second_moment", "key_cosine", "value_cosine", "score_gain", "residual_energy")


@pytest.mark.parametrize("queries", [1, 2])
def test_as_gathered(tmp_path: Path, queries: int) -> None:
    source = resolve_model(str(save_checkpoint(tiny_model("qwen2", heads=6 * queries, kv_heads=6), tmp_path / "one")))
    copied, blocks = [[2, 5], [0, 2]], random_blocks(VOCAB_SIZE)
    twice = write_with_copies(source, copied, tmp_path / "twice")
    own, wide = (
        load_or_collect(load_parent(str(one.directory)), blocks, root=tmp_path / f"cache-{place}")
        for place, one in enumerate((source, twice))
    )
    found, wanted = CopiedHeads(own, copied, queries).layer(1), wide.layer(1)
    assert {field.name for field in fields(found)} >= set(ALIKE)
    for name in ALIKE:
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-3, atol=1e-5, msg=name)
    assert not found.score_gain[6 * queries :].any()
    assert torch.equal(found.distance[6 * queries :][:queries], found.distance[:queries])  # head 0's

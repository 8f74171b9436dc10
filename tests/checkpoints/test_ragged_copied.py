"""GPT-Neo, BioGPT, XGLM and GPT-BigCode have no grouped form in transformers: ragged, with code of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gqasearch.checkpoints import write_checkpoint
from gqasearch.checkpoints.remote.modeling_ragged_copied import RaggedGPTNeoConfig
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from tests.checkpoints.convert import PADDED, SYMMETRIC, convert, document_for, some_ids
from tests.checkpoints.equality import note
from tests.checkpoints.uneven import UNEVEN, assert_same, load_trusted, saved, write
from tests.tiny_described import COPIED_NAMES

# One KV head in a layer, and as many as query heads.
EXTREMES = Grouping.from_labels([[0] * 6, list(range(6))])


@pytest.mark.parametrize("grouping", [UNEVEN, SYMMETRIC, PADDED, EXTREMES])
@pytest.mark.parametrize("family", COPIED_NAMES)
def test_written_checkpoint_equals_parent_with_tied_heads(family: str, grouping: Grouping, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    assert write(parent, folder, tmp_path / "out", grouping, "auto").name == "ragged"
    written = load_trusted(tmp_path / "out")
    assert_same(parent, written, grouping)
    written.save_pretrained(tmp_path / "again")
    assert_same(parent, load_trusted(tmp_path / "again"), grouping)


@pytest.mark.parametrize("family", COPIED_NAMES)
def test_without_groups_it_computes_what_the_source_does(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    grouping = Grouping.uniform(LayerGrouping.singletons(6), 2)
    write_checkpoint(folder, tmp_path / "out", document_for(parent, grouping), parent.layer)
    again, ids = load_trusted(tmp_path / "out"), some_ids()
    with torch.no_grad():
        difference = float((again(ids).logits - parent.model(ids).logits).abs().max())
    note(parent, again, difference, identity=True)
    assert difference == 0


@pytest.mark.parametrize("family", COPIED_NAMES)
def test_other_layouts_are_refused(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    with pytest.raises(UserError, match="as many key and value heads as query heads and no grouped form"):
        convert(parent, folder, tmp_path / "out", SYMMETRIC, layout="stock")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kv_group_sizes": [[2, 2, 2]]}, "one entry for each of the 2 layers"),
        ({"kv_group_sizes": [[2, 2, 2], [3, 4]]}, r"kv_group_sizes\[1\] must add up to 6"),
        ({"kv_group_sizes": [[2, 2, 2], [6, 0]]}, r"kv_group_sizes\[1\] must list whole numbers from 1"),
        ({"kv_group_sizes": [[2, 4], [6]], "num_key_value_heads_per_layer": [2, 2]}, r"kv_group_sizes has \[2, 1\]"),
    ],
)
def test_groups_that_do_not_fit_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RaggedGPTNeoConfig(num_layers=2, num_heads=6, hidden_size=48, attention_types=[[["global"], 2]], **fields)

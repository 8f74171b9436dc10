"""Models that read images, too: every layout of their text towers, and all else byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gqasearch.checkpoints import write_checkpoint
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import load_parent
from tests.checkpoints import test_stock
from tests.checkpoints.convert import (
    PADDED,
    SYMMETRIC,
    config_of,
    convert,
    document_for,
    load,
    some_ids,
    stored_tensors,
)
from tests.checkpoints.equality import note
from tests.checkpoints.uneven import SOURCES, UNEVEN, assert_same, load_trusted, saved, write
from tests.matrix import sampled
from tests.tiny_towers import TOWER_NAMES

NAMES = sampled(TOWER_NAMES, ["gemma3", "qwen2_5_vl", "qwen3_vl", "llava-llama"])
WIDTHS: dict[str, dict[str, Any]] = {"gemma3": {"hidden": 72}}  # which 9 slots divide
NEVER_PADDED = ("qwen2_vl", "qwen2_5_vl")
PADDED_NAMES = sampled((name for name in TOWER_NAMES if name not in NEVER_PADDED), ["gemma3", "llava-llama"])


@pytest.mark.parametrize("family", NAMES)
def test_merge_without_effect_gives_the_parent_itself(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    grouping = Grouping.uniform(LayerGrouping.singletons(6), 2)
    write_checkpoint(folder, tmp_path / "out", document_for(parent, grouping), parent.layer)
    written, stored = stored_tensors(tmp_path / "out"), stored_tensors(folder)
    assert written.keys() == stored.keys()
    assert all(bool((written[name] == tensor).all()) for name, tensor in stored.items())
    again, ids = load(tmp_path / "out"), some_ids()
    with torch.no_grad():
        difference = float((again(ids).logits - parent.model(ids).logits).abs().max())
    note(parent, again, difference, identity=True)
    assert difference == 0


@pytest.mark.parametrize("family", NAMES)
def test_symmetric_checkpoint_of_a_gqa_source(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, heads=12, kv_heads=6)
    (folder / "preprocessor_config.json").write_text('{"image_size": 28}')
    assert convert(parent, folder, tmp_path / "out", SYMMETRIC).name == "stock-symmetric"
    before, after = config_of(folder), config_of(tmp_path / "out")
    assert {name: after[name] for name in ("architectures", "vision_config")} == {
        name: before[name] for name in ("architectures", "vision_config")
    }
    written, stored = stored_tensors(tmp_path / "out"), stored_tensors(folder)
    changed = {name for name, tensor in stored.items() if not torch.equal(written[name], tensor)}
    assert all("self_attn" in name and "vision" not in name and "visual" not in name for name in changed)
    assert len([name for name in changed if name.endswith("k_proj.weight")]) == 2
    assert (tmp_path / "out" / "preprocessor_config.json").read_text() == '{"image_size": 28}'
    test_stock.assert_same(parent, tmp_path / "out", SYMMETRIC)


@pytest.mark.parametrize("family", PADDED_NAMES)
def test_padded_checkpoint_of_an_mha_source(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **WIDTHS.get(family, {}))
    assert convert(parent, folder, tmp_path / "out", PADDED).name == "stock-padded"
    assert config_of(tmp_path / "out")["architectures"] == parent.config["architectures"]
    test_stock.assert_same(parent, tmp_path / "out", PADDED)


@pytest.mark.parametrize("family", NEVER_PADDED)
def test_heads_that_cannot_be_added_are_refused_and_ragged_instead(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    with pytest.raises(UserError, match="its head size is always hidden_size / num_attention_heads"):
        convert(parent, folder, tmp_path / "out", PADDED, layout="stock")
    assert convert(parent, folder, tmp_path / "out", PADDED).name == "ragged"
    assert_same(parent, load_trusted(tmp_path / "out"), PADDED)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("family", NAMES)
def test_layers_with_numbers_of_heads_of_their_own(family: str, source: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **SOURCES[source])
    assert write(parent, folder, tmp_path / "out", UNEVEN, "auto").name == "ragged"
    written = load_trusted(tmp_path / "out", attn_implementation="eager" if source == "gqa" else None)
    assert_same(parent, written, UNEVEN)
    written.save_pretrained(tmp_path / "again")
    assert_same(parent, load_trusted(tmp_path / "again"), UNEVEN)

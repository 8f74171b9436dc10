"""Every layout of the families that are a few words each: symmetric, padded, and ragged layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gqasearch.errors import UserError
from tests.checkpoints import test_stock
from tests.checkpoints.convert import (
    PADDED,
    SYMMETRIC,
    config_of,
    convert,
)
from tests.checkpoints.uneven import SOURCES, UNEVEN, assert_same, assert_unchanged, load_trusted, saved, write
from tests.matrix import sampled
from tests.tiny_described import DESCRIBED_NAMES

OFTEN = ("glm4", "cohere2", "exaone4", "ministral3", "mixtral", "gpt_oss", "olmo2")
# Hidden sizes that 6 heads and 9 slots divide, where transformers asks for it.
WIDTHS: dict[str, dict[str, Any]] = {"arcee": {"hidden": 72}}
NEVER_PADDED = ("helium", "olmoe")
NAMES = sampled(DESCRIBED_NAMES, OFTEN)
PADDED_NAMES = sampled(
    (name for name in DESCRIBED_NAMES if name not in NEVER_PADDED), (n for n in OFTEN if n not in NEVER_PADDED)
)


@pytest.mark.parametrize("family", NAMES)
def test_merge_without_effect_gives_the_parent_itself(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family)
    assert_unchanged(parent, folder, tmp_path / "out")


@pytest.mark.parametrize("family", NAMES)
def test_symmetric_checkpoint_of_a_gqa_source(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, heads=12, kv_heads=6)
    assert convert(parent, folder, tmp_path / "out", SYMMETRIC).name == "stock-symmetric"
    assert config_of(tmp_path / "out")["architectures"] == parent.config["architectures"]
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

"""Tiny parents of every family, merged by the mean."""

from __future__ import annotations

from gqasearch.calibration import TokenBlocks
from gqasearch.grouping import Grouping
from gqasearch.merging import Mean
from gqasearch.models import LayerWeights, Parent
from tests.matrix import GROUPED_KINDS, sampled
from tests.samples import random_blocks
from tests.tiny_encoders import ENCODERS, encoder_parent, masked_blocks
from tests.tiny_models import ALL_FAMILY_NAMES, MORE_FAMILY_NAMES, VOCAB_SIZE, kv_head_choices, tiny_parent

EVERY_SOURCE = [
    *((family, kv) for family in (*ALL_FAMILY_NAMES, *MORE_FAMILY_NAMES) for kv in kv_head_choices(family)),
    *((family, 6) for family in ENCODERS),
]
SOURCES = sampled(EVERY_SOURCE, [*GROUPED_KINDS, ("falcon", 3), ("gemma2", 3), ("phi3", 6), ("gpt2", 6), ("bert", 6)])


def parent_of(family: str, kv_heads: int) -> Parent:
    """Two layers of six query heads."""
    return encoder_parent(family) if family in ENCODERS else tiny_parent(family, kv_heads=kv_heads)


def blocks_for(family: str) -> TokenBlocks:
    """Text with padding."""
    return masked_blocks(blocks=3) if family in ENCODERS else random_blocks(VOCAB_SIZE, blocks=3, padded=True)


def grouping_for(kv_heads: int) -> Grouping:
    """Groups of unequal size, not the same in both layers."""
    rows = {6: ([0, 1, 0, 0, 2, 1], [0, 0, 1, 2, 2, 2]), 3: ([0, 1, 0], [0, 0, 1])}
    return Grouping.from_labels(rows[kv_heads])


def mean_merged(parent: Parent, grouping: Grouping) -> dict[int, LayerWeights]:
    """k, v (G, ...)."""
    return {i: Mean().for_layer(parent.layer(i)).merge(layer) for i, layer in enumerate(grouping)}

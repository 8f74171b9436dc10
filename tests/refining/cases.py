"""Tiny parents with a merge and a text, shared by the tests of refinements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gqasearch.calibration import TokenBlocks, collect
from gqasearch.evaluation import Converter
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import LayerWeights, Parent
from gqasearch.refining import LayerSite, Refinement, Streams, make_refinement
from gqasearch.testing import InMemoryStatistics
from tests.samples import random_blocks

THIRDS = Grouping.uniform(LayerGrouping.neighbours(6, 2), 2)
REFINING = ("outputs", "descent", "joint")
FEW = {"descent": {"steps": 8}, "joint": {"steps": 8, "joint_steps": 8}}


def refinement(name: str, **parameters: Any) -> Refinement:
    """Few steps, so that a test takes a second; fitted to all of its few tokens, and judged by them."""
    own = {} if name == "none" else {"validate": False}
    return make_refinement(name, FEW.get(name, {}) | own | parameters)


def blocks_of(parent: Parent, **options: Any) -> TokenBlocks:
    return random_blocks(parent.config["vocab_size"], **{"blocks": 20, **options})


def converter_of(parent: Parent, folder: Path, merge: str = "optimal") -> Converter:
    statistics = InMemoryStatistics(list(collect(parent, blocks_of(parent), folder)))
    return Converter(parent, make_merge(merge), lambda: statistics)


def site_of(parent: Parent, grouping: Grouping, blocks: TokenBlocks, index: int = 0) -> LayerSite:
    """The site of a layer whose layers below are the parent's own."""
    with torch.no_grad():
        streams = Streams(parent, blocks, 4)
        for below in range(index):
            streams.advance_parent(below)
            streams.advance_converted(below, None)
        streams.advance_parent(index)
        return streams.site(index, grouping.layers[index])


def site_error(site: LayerSite, weights: LayerWeights) -> float:
    """Mean over tokens of ||r_parent - h - attention(x)||^2."""
    with torch.no_grad():
        errors = [(site.attend(weights, call) - call.wanted)[call.mask].double() for call in site.calls]
    return float(torch.cat(errors).square().sum(-1).mean())


def copied_heads(weights: LayerWeights) -> LayerWeights:
    """K, V of every odd head replaced by those of the head before."""
    index = torch.arange(weights.num_kv_heads) // 2 * 2
    return replace(
        weights,
        k=weights.k[index],
        v=weights.v[index],
        k_bias=None if weights.k_bias is None else weights.k_bias[index],
        v_bias=None if weights.v_bias is None else weights.v_bias[index],
    )


def state_of(parent: Parent) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in parent.model.state_dict().items()}


def untouched(parent: Parent, before: dict[str, torch.Tensor]) -> bool:
    """Same bits, no gradients, and no hook left behind."""
    same = all(torch.equal(before[name], tensor) for name, tensor in parent.model.state_dict().items())
    plain = all(p.grad is None and p.requires_grad and p.grad_fn is None for p in parent.model.parameters())
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in parent.model.modules())
    return same and plain and not hooks

"""Planted recovery: groups hidden by every free rotation are found again, and exactly undone.

A model with G KV heads is expanded to H by duplication; its heads are permuted, and every head gets
a random invertible map on V (undone in W_o) and a random complex factor per frequency pair on K
(undone in W_q). The result computes the same function as the original.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gqasearch.budget import Budget
from gqasearch.calibration import collect
from gqasearch.evaluation import Converter
from gqasearch.fitness import FitnessContext, PreparedFitness, make_fitness
from gqasearch.grouping import Grouping
from gqasearch.merging import make_merge
from gqasearch.merging.score_pairs import from_pairs, to_pairs
from gqasearch.models import LayerWeights, Parent, layers_replaced
from gqasearch.searching import Problem, make_method
from gqasearch.searching.runner import run_search
from gqasearch.testing import InMemoryStatistics
from tests.matrix import sampled
from tests.samples import logits_of, random_blocks
from tests.tiny_models import tiny_model

HEADS, GROUPS, LAYERS = 8, 3, 2


def scrambled(layer: LayerWeights, labels: list[int], rotate_keys: bool, seed: int) -> LayerWeights:
    """Every head reads group ``labels[h]``'s K and V, each through its own change of basis."""
    generator = torch.Generator().manual_seed(seed)
    w = layer.to(torch.float64)
    d, tied = w.head_dim, torch.tensor(labels)
    turn, back = (torch.linalg.qr(torch.randn(HEADS, d, d, generator=generator).double())[0] for _ in range(2))
    stretch = 0.5 + torch.rand(HEADS, 1, d, generator=generator, dtype=torch.float64)
    maps = (turn * stretch) @ back  # any invertible matrix, well conditioned
    v, o = maps @ w.v[tied], w.o @ torch.linalg.inv(maps)
    factor = torch.randn(HEADS, d // 2, 1, generator=generator, dtype=torch.complex128)
    factor = factor / factor.abs() * (0.5 + torch.rand(factor.shape, generator=generator, dtype=torch.float64))
    if not rotate_keys:  # a head norm leaves no freedom but the size
        factor = torch.ones_like(factor) * (0.5 + torch.rand(HEADS, 1, 1, generator=generator, dtype=torch.float64))
    k = from_pairs(factor * to_pairs(w.k[tied]))
    q = w.q if not rotate_keys else from_pairs(to_pairs(w.q) / factor.conj())

    def biased(bias: torch.Tensor | None, change: torch.Tensor) -> torch.Tensor | None:
        return None if bias is None else from_pairs(change * to_pairs(bias[..., None]))[..., 0]

    return replace(
        w,
        q=q,
        k=k,
        v=v,
        o=o,
        q_bias=biased(w.q_bias, 1 / factor.conj()),
        k_bias=biased(None if w.k_bias is None else w.k_bias[tied], factor),
        v_bias=None if w.v_bias is None else (maps @ w.v_bias[tied][..., None])[..., 0],
    ).to(torch.float32)


def planted(family: str) -> tuple[Parent, dict[int, LayerWeights], Grouping]:
    """A parent, its scrambled layers, and the hidden grouping."""
    parent = Parent.from_model(tiny_model(family, heads=HEADS, layers=LAYERS))
    rng = np.random.default_rng(0)
    rows = [rng.permutation([0, 0, 0, 0, 1, 1, 2, 2]).tolist() for _ in range(LAYERS)]
    layers = {i: scrambled(parent.layer(i), row, family != "qwen3", i) for i, row in enumerate(rows)}
    return parent, layers, Grouping.from_labels(rows)


def search(fitness: PreparedFitness) -> Grouping:
    budget = Budget((GROUPS,) * LAYERS, HEADS, largest_group=6)
    errors = tuple(fitness.layer_errors(layer, HEADS) for layer in range(LAYERS))
    problem = Problem({"fitness": fitness.evaluate}, budget, layer_errors=errors)
    *_, last = run_search(make_method("evolution", {}), problem, np.random.default_rng(0))
    return last.best.grouping


@pytest.mark.parametrize("family", sampled(["llama", "mistral", "qwen2", "qwen3"], ["qwen2"]))
def test_planted_groups_come_back(family: str, tmp_path: Path) -> None:
    parent, layers, hidden = planted(family)
    blocks = random_blocks(parent.config["vocab_size"], blocks=12, length=32)
    with layers_replaced(parent, layers):
        original = logits_of(parent, blocks)
        statistics = InMemoryStatistics(list(collect(parent, blocks, tmp_path)))
        merge = make_merge("optimal")
        context = FitnessContext(parent, merge, lambda: statistics, lambda: blocks, lambda: blocks)
        assert search(make_fitness("merge-error").prepare(context)) == hidden
        converted = Converter(parent, merge, lambda: statistics).runner(hidden)(blocks.ids, blocks.mask)
        torch.testing.assert_close(converted, original, atol=1e-4, rtol=0)
        if family == "qwen3":  # its keys, which a norm leaves no rotation, still give the groups away
            return
        for name in ("weight-sharing-error", "activation-cosine"):
            blind = search(make_fitness(name).prepare(context))
            assert blind != hidden, f"{name} is expected to be blind to free rotations"

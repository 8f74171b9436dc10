"""Checks that every fitness function must pass, for authors of plug-ins; runs in seconds, needs no download.

    from gqasearch.testing import FitnessContract

    class TestMine(FitnessContract):
        def make(self):
            return MyFitness()

pytest collects the inherited tests. The model is a tiny random Llama.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gqasearch.calibration import LayerStatistics, Statistics, TokenBlocks, collect
from gqasearch.fitness import Fitness, FitnessContext, PreparedFitness, PreparedGroupFitness, PreparedPairwiseFitness
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import Mean, Merge
from gqasearch.models import Parent
from gqasearch.separate_grouping import SIDES

VOCABULARY, HEADS, LAYERS = 64, 6, 2


class InMemoryStatistics(Statistics):
    """Statistics of a model in memory, all layers kept."""

    def __init__(self, layers: list[LayerStatistics]) -> None:
        self.layers = layers

    @property
    def tokens(self) -> int:
        return self.layers[0].tokens

    @property
    def source(self) -> str:
        return "random tokens"

    @property
    def fingerprint(self) -> str:
        return "sha256:" + "0" * 64

    def layer(self, index: int) -> LayerStatistics:
        return self.layers[index]


@cache
def tiny_llama() -> Parent:
    """A random Llama: 2 layers, 6 heads of 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            initializer_range=0.15,
        )
        return Parent.from_model(LlamaForCausalLM(config))


def random_tokens(seed: int) -> TokenBlocks:
    """Uniform tokens in blocks of 16."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (4, 16), generator=generator)
    return TokenBlocks(ids, torch.ones_like(ids, dtype=torch.bool), "random tokens")


@cache
def tiny_statistics() -> Statistics:
    """Statistics of the tiny Llama on random tokens."""
    with tempfile.TemporaryDirectory() as folder:
        return InMemoryStatistics(list(collect(tiny_llama(), random_tokens(0), Path(folder))))


def tiny_context(merge: Merge | None = None) -> FitnessContext:
    """A context on the tiny Llama."""
    return FitnessContext(
        tiny_llama(), merge or Mean(), tiny_statistics, lambda: random_tokens(1), lambda: random_tokens(2)
    )


class FitnessContract:
    """Inherit, and return your fitness from ``make``."""

    def make(self) -> Fitness:
        """The fitness under test."""
        raise NotImplementedError

    def prepared(self) -> PreparedFitness:
        """The fitness bound to the tiny model."""
        return self.make().prepare(tiny_context())

    def candidates(self) -> list[Grouping]:
        """Some groupings: none shared, neighbours, unequal, all shared."""
        rows = ([0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 2, 2], [0, 1, 0, 0, 2, 1], [0, 0, 0, 0, 0, 0])
        return [Grouping.uniform(LayerGrouping.from_labels(row), LAYERS) for row in rows]

    def test_values_are_finite_and_one_per_candidate(self) -> None:
        values = self.prepared().evaluate(self.candidates())
        _check(values.shape == (len(self.candidates()),), f"shape {values.shape}")
        _check(bool(np.isfinite(values).all()), f"values {values}")

    def test_sharing_everything_is_worse_than_sharing_nothing(self) -> None:
        values = self.prepared().evaluate(self.candidates())
        _check(values[0] < values[-1], f"lower must be better; none shared {values[0]}, all shared {values[-1]}")

    def test_a_value_does_not_depend_on_its_neighbours(self) -> None:
        together = self.prepared().evaluate(self.candidates())
        alone = [float(self.prepared().evaluate([candidate])[0]) for candidate in self.candidates()]
        _check(together.tolist() == alone, f"together {together.tolist()}, alone {alone}")

    def test_values_are_the_same_after_a_rest(self) -> None:
        prepared = self.prepared()
        before = prepared.evaluate(self.candidates()[1:2]).tolist()
        prepared.rest()
        after = prepared.evaluate(self.candidates()[1:3]).tolist()
        fresh = self.prepared().evaluate(self.candidates()[1:3]).tolist()
        _check(before == after[:1] and after == fresh, f"{before} before, {after} after a rest, {fresh} without one")

    def test_relabelling_changes_nothing(self) -> None:
        first = Grouping.from_labels([[0, 1, 0, 0, 2, 1]] * LAYERS)
        second = Grouping.from_labels([[7, 2, 7, 7, 0, 2]] * LAYERS)
        a, b = self.prepared().evaluate([first, second])
        _check(a == b, f"the same partition under other labels: {a} and {b}")

    def test_the_parent_is_left_as_it_was(self) -> None:
        model = tiny_llama().model
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.prepared().evaluate(self.candidates())
        changed = [name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)]
        _check(not changed, f"the fitness changed {changed}")

    def test_groups_add_up(self) -> None:
        """A group fitness is the sum of its group errors; a pairwise one, of its distances."""
        prepared = self.prepared()
        if isinstance(prepared, PreparedGroupFitness):
            grouping = self.candidates()[2]
            total = sum(prepared.group_error(i, heads) for i, layer in enumerate(grouping) for heads in layer.groups)
            _check(bool(np.isclose(prepared.evaluate([grouping])[0], total, rtol=1e-12)), "groups do not add up")
        if isinstance(prepared, PreparedPairwiseFitness):
            distances = prepared.distances(0)
            _check(bool((distances == distances.T).all() and not distances.diagonal().any()), "not a distance matrix")

    def test_keys_and_values_apart(self) -> None:
        """Of a fitness that ``takes_sides``: two partitions for every layer."""
        fitness = self.make()
        if fitness.takes_sides:
            prepared = fitness.prepare(replace(tiny_context(), separate_kv=True))
            twice = [Grouping(tuple(layer for layer in one for _ in SIDES)) for one in self.candidates()]
            values, nothing = prepared.evaluate(twice), self.prepared().evaluate(self.candidates()[:1])[0]
            _check(values.shape == (len(twice),) and bool(np.isfinite(values).all()), f"values {values}")
            _check(bool(np.isclose(values[0], nothing)), f"none shared: {values[0]}, with one partition {nothing}")


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)

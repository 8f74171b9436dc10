"""QCQA's genomes: labels of heads, runs of equal length, a choice for every layer."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping
from gqasearch.pairwise import IntArray
from gqasearch.searching.operators import count_range, repair
from gqasearch.searching.papers.nsga2_integers import Genomes


class LayerGenomes(Genomes):
    """Genomes that stand for partitions of one layer's heads."""

    @abstractmethod
    def labels(self, genomes: IntArray) -> IntArray:
        """The partitions as labels, (N, H)."""


class LabelGenomes(LayerGenomes):
    """Arbitrary cardinality: H labels in 0..H-1. Groups stay within ``budget.largest``.

    Only which labels are equal counts. So crossover is two-point and a mutated label drawn anew: SBX and
    polynomial mutation, which a public reproduction rounds, would take near numbers for near groups.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.genes = budget.num_heads

    def labels(self, genomes: IntArray) -> IntArray:
        return genomes

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        """Labels below a random number of groups: below H alone, few genomes would have few groups."""
        most = rng.integers(1, self.genes + 1, size=(count, 1))
        return self._fit(rng.integers(most, size=(count, self.genes)), rng)

    def cross(self, mothers: IntArray, fathers: IntArray, rng: np.random.Generator) -> IntArray:
        return self._fit(two_point(mothers, fathers, rng), rng)

    def mutate(self, genomes: IntArray, rate: float, rng: np.random.Generator) -> IntArray:
        hit = rng.random(genomes.shape) < rate
        return self._fit(np.where(hit, rng.integers(self.genes, size=genomes.shape), genomes), rng)

    def _fit(self, genomes: IntArray, rng: np.random.Generator) -> IntArray:
        """Heads of too large groups go elsewhere; rows within bounds stay as they are."""
        if self.budget.largest == self.genes:
            return genomes
        sizes = (genomes[:, :, None] == np.arange(self.genes)).sum(axis=1)
        fewest = count_range(self.budget)[0]
        for row in np.flatnonzero(sizes.max(axis=1) > self.budget.largest).tolist():
            groups = LayerGrouping.from_labels(genomes[row].tolist()).groups
            genomes[row] = repair(groups, max(len(groups), fewest), self.budget, rng).labels
        return genomes


class RunGenomes(LayerGenomes):
    """Equal cardinality: the heads in some order, then which divisor of H is the number of groups.

    Groups are the consecutive runs of the order, so no operator can make sizes differ: order crossover
    (Davis 1985), swaps, and a divisor from either parent or drawn anew.
    """

    def __init__(self, budget: Budget) -> None:
        heads = budget.num_heads
        self.genes = heads + 1
        self.heads = heads
        self.divisors: IntArray = np.array(equal_counts(budget))

    def labels(self, genomes: IntArray) -> IntArray:
        sizes = self.heads // self.divisors[genomes[:, -1:]]
        labels = np.empty((len(genomes), self.heads), dtype=np.int64)
        np.put_along_axis(labels, genomes[:, :-1], np.arange(self.heads) // sizes, axis=1)
        return labels

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        orders = rng.permuted(np.tile(np.arange(self.heads), (count, 1)), axis=1)
        return np.concatenate([orders, rng.integers(len(self.divisors), size=(count, 1))], axis=1)

    def cross(self, mothers: IntArray, fathers: IntArray, rng: np.random.Generator) -> IntArray:
        count, heads = len(mothers), self.heads
        # The kept stretch of the mother ends the row; turned back at the end to where it was.
        kept, turn = rng.integers(1, heads + 1, size=(count, 1)), rng.integers(heads, size=(count, 1))
        places = (np.arange(heads) + turn) % heads
        mother = np.take_along_axis(mothers[:, :-1], places, axis=1)
        father = np.take_along_axis(fathers[:, :-1], places, axis=1)
        from_mother = np.arange(heads) >= heads - kept
        head_is_kept = np.empty((count, heads), dtype=bool)
        np.put_along_axis(head_is_kept, mother, from_mother, axis=1)
        # A stable sort puts the father's other heads first, in the father's order.
        order = np.argsort(np.take_along_axis(head_is_kept, father, axis=1), axis=1, kind="stable")
        turned = np.where(from_mother, mother, np.take_along_axis(father, order, axis=1))
        children = np.empty_like(mothers)
        np.put_along_axis(children, places, turned, axis=1)
        children[:, -1] = np.where(rng.random(count) < 0.5, mothers[:, -1], fathers[:, -1])
        return children

    def mutate(self, genomes: IntArray, rate: float, rng: np.random.Generator) -> IntArray:
        mutants = genomes.copy()
        hit, partners = rng.random(genomes.shape) < rate, rng.integers(self.heads, size=genomes.shape)
        for row, gene in np.argwhere(hit[:, :-1]).tolist():
            other = partners[row, gene]
            mutants[row, [gene, other]] = mutants[row, [other, gene]]
        redrawn = rng.integers(len(self.divisors), size=len(genomes))
        mutants[:, -1] = np.where(hit[:, -1], redrawn, mutants[:, -1])
        return mutants


class ChoiceGenomes(Genomes):
    """One of ``options[l]`` choices for every layer l; with two each, a row of bits.

    Two-point crossover; a mutated gene becomes another choice, which turns a bit over.
    """

    def __init__(self, options: list[int]) -> None:
        self.options: IntArray = np.array(options)
        self.genes = len(options)

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        return rng.integers(self.options, size=(count, self.genes))

    def cross(self, mothers: IntArray, fathers: IntArray, rng: np.random.Generator) -> IntArray:
        return two_point(mothers, fathers, rng)

    def mutate(self, genomes: IntArray, rate: float, rng: np.random.Generator) -> IntArray:
        hit = rng.random(genomes.shape) < rate
        others = rng.integers(np.maximum(self.options - 1, 1), size=genomes.shape) + 1
        return np.where(hit, (genomes + others) % self.options, genomes)


def two_point(mothers: IntArray, fathers: IntArray, rng: np.random.Generator) -> IntArray:
    """The mothers with a random stretch of genes from the fathers, (N, genes)."""
    count, genes = mothers.shape
    cuts = np.sort(rng.integers(genes + 1, size=(count, 2)), axis=1)
    places = np.arange(genes)
    return np.where((cuts[:, :1] <= places) & (places < cuts[:, 1:]), fathers, mothers)


def equal_counts(budget: Budget) -> list[int]:
    """Numbers of groups of equal size that ``budget.largest`` allows, ascending."""
    heads = budget.num_heads
    return [count for count in range(1, heads + 1) if heads % count == 0 and heads // count <= budget.largest]

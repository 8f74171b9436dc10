"""What a proposal is said to change is what taking it changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from gqasearch.budget import Budget
from gqasearch.searching import GroupErrors, PairwiseErrors, SetErrors
from gqasearch.searching.baselines.chains import PairwiseChains, Proposals, SetChains, make_chains, random_labels
from tests.searching.problems import Pairwise, SetFunction, budgets, one_by_one, seeds

CHAINS, STEPS = 3, 12


def make_errors(kind: str, heads: int) -> GroupErrors:
    if kind == "pairwise":
        return PairwiseErrors(Pairwise(heads, 0).distances)
    return SetErrors(heads, one_by_one(SetFunction(heads, 0).error))


def is_allowed(labels: list[int], proposals: Proposals, step: int, chain: int, budget: Budget) -> bool:
    """Whether a proposal makes another partition of the allowed sizes."""
    one = labels[proposals.heads[step, chain]]
    if not proposals.moving[step]:
        return one != labels[proposals.others[step, chain]]
    two = int(proposals.groups[step, chain])
    return one != two and labels.count(one) > budget.smallest_group and labels.count(two) < budget.largest


@pytest.mark.parametrize("kind", ["pairwise", "sets"])
@settings(max_examples=40, deadline=None)
@given(budget=budgets(), seed=seeds)
def test_deltas_equal_full_evaluations(kind: str, budget: Budget, seed: int) -> None:
    rng, every = np.random.default_rng(seed), np.arange(CHAINS)
    errors = make_errors(kind, budget.num_heads)
    chains = make_chains(errors, random_labels(CHAINS, budget, rng), budget)
    proposals = Proposals.draw(STEPS, CHAINS, budget, True, rng)
    for step in range(STEPS):
        before, labels = errors.evaluate(chains.labels), chains.labels.tolist()
        deltas = proposals.deltas(chains, step)
        allowed = [is_allowed(labels[chain], proposals, step, chain, budget) for chain in every]
        assert np.isfinite(deltas).tolist() == allowed
        # Take some of them and leave the others.
        taken = np.flatnonzero(np.isfinite(deltas) & (rng.random(CHAINS) < 0.7))
        proposals.take(chains, step, taken)
        expected = before.copy()
        expected[taken] += deltas[taken]
        np.testing.assert_allclose(errors.evaluate(chains.labels), expected, atol=1e-9)
        np.testing.assert_allclose(chains.errors(every), expected, atol=1e-9)
        left = np.setdiff1d(every, taken)
        assert chains.labels[left].tolist() == [labels[chain] for chain in left]


def test_the_kind_of_chain_follows_the_errors() -> None:
    budget = Budget((2,), 5)
    labels = random_labels(2, budget, np.random.default_rng(0))
    assert isinstance(make_chains(make_errors("pairwise", 5), labels, budget), PairwiseChains)
    assert isinstance(make_chains(make_errors("sets", 5), labels, budget), SetChains)


def test_moves_are_half_of_the_proposals_where_there_can_be_any() -> None:
    rng = np.random.default_rng(0)
    assert 400 < Proposals.draw(1000, 1, Budget((2,), 6), True, rng).moving.sum() < 600
    assert not Proposals.draw(1000, 1, Budget((2,), 6), False, rng).moving.any()
    equal = Budget((2,), 6, smallest_group=3, largest_group=3)
    assert not Proposals.draw(1000, 1, equal, True, rng).moving.any()

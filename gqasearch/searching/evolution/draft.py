"""A partition under way, and what its neighbours would cost by a model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gqasearch.budget import Budget
from gqasearch.grouping import LayerGrouping
from gqasearch.pairwise import FloatArray
from gqasearch.searching.evolution.asked import AskedErrors
from gqasearch.searching.evolution.group_model import GroupModel


@dataclass(frozen=True)
class Step:
    """``heads`` go to ``takers``, groups by index: one for a move, two for a swap. ``rise``: what that should add."""

    heads: tuple[int, ...]
    takers: tuple[int, ...]
    rise: float


class Draft:
    """``labels`` (H,), and what every group costs, (G,): its error where that was asked for.

    Elsewhere it is what the model says, times what the last known group at this place cost over what the model says of
    that: a step changes a group by a head or two, and the model's mistakes by little.
    """

    def __init__(self, layer: LayerGrouping, model: GroupModel, asked: AskedErrors, budget: Budget) -> None:
        self._model, self._asked, self._budget = model, asked, budget
        self.labels = np.array(layer.labels, dtype=np.int64)
        self.masks = [sum(1 << head for head in group) for group in layer.groups]
        self.members = (self.labels == np.arange(layer.num_groups)[:, None]).astype(np.float64)
        self.costs: FloatArray = np.zeros(layer.num_groups)
        self._ratios = np.ones(layer.num_groups)
        self._price(list(range(layer.num_groups)))

    @property
    def layer(self) -> LayerGrouping:
        return LayerGrouping.from_labels(self.labels.tolist())

    @property
    def total(self) -> float:
        return float(self.costs.sum())

    def cost_before(self, step: Step) -> float:
        """Of the two groups that ``step`` changes."""
        return float(self.costs[self.labels[step.heads[0]]] + self.costs[step.takers[0]])

    def masks_after(self, step: Step) -> tuple[int, int]:
        """What ``step`` makes of the group that its first head leaves and of that which it joins, as bit masks."""
        bits = sum(1 << head for head in step.heads)
        return self.masks[self.labels[step.heads[0]]] ^ bits, self.masks[step.takers[0]] ^ bits

    def take(self, step: Step) -> None:
        """Take the step."""
        changed = [int(self.labels[step.heads[0]]), step.takers[0]]
        self.masks[changed[0]], self.masks[changed[1]] = self.masks_after(step)
        for head, taker in zip(step.heads, step.takers, strict=True):
            self.members[self.labels[head], head], self.members[taker, head] = 0.0, 1.0
            self.labels[head] = taker
        self._price(changed)

    def best_steps(self, count: int) -> list[Step]:
        """The ``count`` swaps and moves within bounds that promise most, best first."""
        rises = self._rises()
        chosen = np.argpartition(rises, min(count, len(rises) - 1))[:count]
        chosen = chosen[np.argsort(rises[chosen], kind="stable")]
        return [self._step(int(place), float(rises[place])) for place in chosen if rises[place] < np.inf]

    def best_merges(self, count: int) -> list[LayerGrouping]:
        """The ``count`` merges of two groups within bounds that promise most, best first."""
        sizes = self.members.sum(1)
        pairs = [pair for pair in combinations(range(len(sizes)), 2) if sizes[list(pair)].sum() <= self._budget.largest]
        if not pairs:
            return []
        one, two = np.array(pairs).T
        costs = self._model.errors(self.members[one] + self.members[two])
        for place, (first, second) in enumerate(pairs):
            known = self._asked.get(self.masks[first] | self.masks[second])
            costs[place] = costs[place] if known is None else known
        best = np.argsort(costs - self.costs[one] - self.costs[two], kind="stable")[:count]
        return [self._relabelled(self.labels == two[place], int(one[place])) for place in best]

    def best_splits(self, count: int) -> list[LayerGrouping]:
        """The ``count`` heads on their own that promise most, best first; none where bounds allow no group of one."""
        if self._budget.smallest_group > 1:
            return []
        without, _, _ = self._model.neighbours(self.members, self.labels)
        rises = without * self._ratios[self.labels] - self.costs[self.labels]
        rises[self.members.sum(1)[self.labels] == 1] = np.inf
        best = [head for head in np.argsort(rises, kind="stable")[:count].tolist() if rises[head] < np.inf]
        return [self._relabelled(np.arange(len(self.labels)) == head, len(self.masks)) for head in best]

    def _rises(self) -> FloatArray:
        """Of all moves of a head to a group, (H, G), then of all swaps of two, (H, H); flat, inf where forbidden."""
        labels, sizes, ratios = self.labels, self.members.sum(1), self._ratios
        without, joined, replaced = self._model.neighbours(self.members, labels)
        moves = (without * ratios[labels] - self.costs[labels])[:, None] + (joined * ratios - self.costs)
        moves[sizes[labels] <= self._budget.smallest_group] = np.inf
        moves[:, sizes >= self._budget.largest] = np.inf
        moves[np.arange(len(labels)), labels] = np.inf
        half = replaced * ratios[labels][:, None] - self.costs[labels][:, None]
        swaps = half + half.T
        lone = sizes[labels] == 1
        swaps[(labels[:, None] == labels) | (lone[:, None] & lone)] = np.inf
        swaps[np.tril_indices(len(labels))] = np.inf
        return np.concatenate([moves.ravel(), swaps.ravel()])

    def _step(self, place: int, rise: float) -> Step:
        groups, heads = len(self.masks), len(self.labels)
        if place < heads * groups:
            head, taker = divmod(place, groups)
            return Step((head,), (taker,), rise)
        one, two = divmod(place - heads * groups, heads)
        return Step((one, two), (int(self.labels[two]), int(self.labels[one])), rise)

    def _relabelled(self, heads: FloatArray, label: int) -> LayerGrouping:
        return LayerGrouping.from_labels(np.where(heads, label, self.labels).tolist())

    def _price(self, groups: list[int]) -> None:
        modelled = self._model.errors(self.members[groups])
        for group, plain in zip(groups, modelled.tolist(), strict=True):
            known = self._asked.get(self.masks[group])
            self.costs[group] = plain * self._ratios[group] if known is None else known
            if known and plain > 0:
                self._ratios[group] = known / plain

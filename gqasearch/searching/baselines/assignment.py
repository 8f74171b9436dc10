"""Heads to centroids, with bounds on group sizes: the assignment step of balanced k-means, and a repair of clusters.

Squared distances D are enough: with W_ig the summed distance of head i to group g and I_g the summed distances inside g
(every pair once), head i is W_ig / n_g - I_g / n_g^2 from the centroid of g, squared.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from gqasearch.budget import Budget
from gqasearch.pairwise import FloatArray, IntArray


def centroid_distances(distances: FloatArray, labels: IntArray, count: int) -> FloatArray:
    """Squared distances of heads to centroids, (H, G); ``labels``: (H,), every label below ``count`` in use."""
    member = (labels[:, None] == np.arange(count)).astype(np.float64)
    sizes = member.sum(axis=0)
    sums = distances @ member
    inner = (sums * member).sum(axis=0) / 2
    return np.asarray(sums / sizes - inner / sizes**2)


def within_bounds(labels: IntArray, count: int, budget: Budget) -> bool:
    """Whether every group has an allowed size; ``labels``: (H,)."""
    sizes = np.bincount(labels, minlength=count)
    return bool((sizes >= budget.smallest_group).all() and (sizes <= budget.largest).all())


def assign(costs: FloatArray, budget: Budget) -> IntArray:
    """Labels, (H,), of lowest summed cost with all group sizes within bounds; ``costs``: (H, G).

    A linear assignment of heads to places, as in balanced k-means (Malinen and Franti 2014,
    https://doi.org/10.1007/978-3-662-44415-3_4): every group has places that must be taken and others that may be.
    """
    heads, count = costs.shape
    nearest: IntArray = costs.argmin(axis=1)
    if within_bounds(nearest, count, budget):
        return nearest
    # No group can take more than this beside its smallest size.
    optional = min(budget.largest - budget.smallest_group, heads - count * budget.smallest_group)
    # More than any rearrangement of all heads can gain, so that no place that must be taken is left empty.
    bonus = (heads + 1) * (costs.max() - costs.min() + 1)
    must, may = np.repeat(costs - bonus, budget.smallest_group, axis=1), np.repeat(costs, optional, axis=1)
    group_of = np.concatenate(
        [np.repeat(np.arange(count), budget.smallest_group), np.repeat(np.arange(count), optional)]
    )
    _, places = linear_sum_assignment(np.concatenate([must, may], axis=1))
    return np.asarray(group_of[places])

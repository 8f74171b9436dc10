"""The pairwise problem in the form that the exact methods work on: shifted and scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gqasearch.errors import UserError
from gqasearch.grouping import LayerGrouping
from gqasearch.searching.exact.bounds import check_bounds, possible_sizes
from gqasearch.searching.problem import FloatArray

# Memberships of N groups, (N, H): 1 where the head is in the group. Floats, so that products with matrices need
# no conversion.
Columns = NDArray[np.float64]
Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class PairwiseProblem:
    """Partition H heads into G groups at the least sum of c(S) = (1/|S|) sum_{i<j in S} E_ij.

    E is D less its smallest distance. With equal distances d every partition costs (H - G)/2 * d, so the
    shift takes a constant off every partition and leaves the part that differs: trained heads are nearly
    equidistant. ``excess``: E, (H, H), zero diagonal; ``offset``: that constant; ``sizes``: possible group sizes.
    """

    excess: FloatArray
    offset: float
    num_groups: int
    sizes: range

    @classmethod
    def from_distances(
        cls, distances: FloatArray, num_groups: int, smallest: int, largest: int | None
    ) -> PairwiseProblem:
        """Checks everything; raises ``UserError`` for a matrix that is no table of distances, and for bad bounds."""
        table = np.asarray(distances, dtype=np.float64)
        _check_distances(table)
        num_heads = len(table)
        most = num_heads if largest is None else largest
        check_bounds(num_heads, num_groups, smallest, most)
        off = ~np.eye(num_heads, dtype=bool)
        least = float(table[off].min()) if num_heads > 1 else 0.0
        # The mean of both halves: a matrix that is symmetric up to rounding has one cost, whatever half is read.
        excess = np.where(off, (table + table.T) / 2 - least, 0.0)
        sizes = possible_sizes(num_heads, num_groups, smallest, most)
        return cls(excess, (num_heads - num_groups) / 2 * least, num_groups, sizes)

    @property
    def num_heads(self) -> int:
        return len(self.excess)

    def costs(self, columns: Columns) -> FloatArray:
        """c(S) in terms of E of every column, (N,)."""
        inside = np.einsum("nh,nh->n", columns @ self.excess, columns)
        return np.asarray(inside / (2 * columns.sum(1)), dtype=np.float64)

    def size_index(self, columns: Columns) -> NDArray[np.intp]:
        """Position in ``sizes`` of the size of every column, (N,)."""
        return np.asarray(columns.sum(1), dtype=np.intp) - self.sizes[0]

    def value(self, groups: Groups) -> float:
        """Sum of c(S) in terms of E."""
        return float(self.costs(self.columns(groups)).sum())

    def columns(self, groups: Groups) -> Columns:
        """Memberships of these groups, (len(groups), H)."""
        columns = np.zeros((len(groups), self.num_heads))
        for row, group in enumerate(groups):
            columns[row, list(group)] = 1
        return columns

    def check_partition(self, groups: Groups) -> Groups:
        """The groups in canonical order; raises ``UserError`` when they are no solution."""
        try:
            layer = LayerGrouping.from_groups(groups, self.num_heads)
        except ValueError as error:
            raise UserError(f"start: {error}") from None
        if layer.num_groups != self.num_groups or any(size not in self.sizes for size in layer.sizes):
            raise UserError(
                f"start: {self.num_groups} groups of {self.sizes[0]} to {self.sizes[-1]} heads are needed, "
                f"got sizes {layer.sizes}"
            )
        return layer.groups


def groups_of(columns: Columns) -> Groups:
    """Canonical groups of the columns of a partition."""
    return LayerGrouping.from_groups(np.flatnonzero(row).tolist() for row in columns).groups


def _check_distances(table: FloatArray) -> None:
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not len(table):
        raise UserError(f"distances must be a square matrix, got shape {table.shape}")
    if not np.isfinite(table).all() or (table < 0).any():
        raise UserError("distances must be finite and not negative")
    if np.diagonal(table).any():
        raise UserError("distances must be 0 on the diagonal")
    if not np.allclose(table, table.T, rtol=1e-9, atol=0):
        raise UserError("distances must be symmetric")

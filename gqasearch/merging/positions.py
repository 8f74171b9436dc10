"""Scores of a query and a key over the relative positions that attention looks at.

RoPE turns a key by -delta theta_i against a query delta tokens later: s = q^T R_delta k. Where attention looks a
few tokens back, slow pairs hardly turn, and any matrix passes them nearly unchanged; fast pairs let only one complex
factor through. Averages over the positions that are looked at know the difference:

    E (q^T R k)^2 = <E[q q^T], E_delta[R E[k k^T] R^T]>   for tokens that are independent of each other and of delta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging.score_pairs import from_pairs, to_pairs
from gqasearch.pairwise import FloatArray, IntArray

ComplexArray: TypeAlias = NDArray[np.complex128]

# Share of the positions drawn from anywhere: a score that goes wrong where attention does not look draws it there.
ANYWHERE = 0.1


class RelativePositions:
    """Averages over a layer's relative positions, for every query head by where its own attention goes."""

    def __init__(self, statistics: LayerStatistics, like: Tensor, rotary_dim: int) -> None:
        """``like``: a tensor of the dtype and device to compute in.

        ``rotary_dim``: 0 in a layer that does not use the turns that the model computes for its others.
        """
        distance = statistics.distance.to(like)  # zeros for a head that nothing reads, whose scores cost nothing
        length = distance.shape[1]
        anywhere = torch.arange(length, 0, -1).to(like)  # pairs of tokens that far apart
        shares = (1 - ANYWHERE) * distance + ANYWHERE * anywhere / anywhere.sum()
        half = rotary_dim // 2
        cosines, sines = (table[:, :half].to(like) for table in (statistics.cosines, statistics.sines))
        turns = torch.complex(cosines, -sines)
        self._same = torch.einsum("ht,ta,tb->hab", shares.to(turns), cosines.to(turns), turns)
        self._other = torch.einsum("ht,ta,tb->hab", shares.to(turns), sines.to(turns), turns)

    def of(self, queries: list[int]) -> Turning:
        """The averages of these query heads."""
        return Turning(self._same[queries], self._other[queries])


@dataclass(frozen=True)
class Turning:
    """Averages over the relative positions of m query heads, complex (m, r/2, r/2) each.

    A row (x_b, y_b) is x_b + i y_b, which R^T on its right multiplies by e^(-i theta_b). R on the left makes
    cos theta_a e_a + sin theta_a o_a and cos theta_a o_a - sin theta_a e_a of the two rows e_a and o_a of a pair.
    ``same`` averages cos theta_a e^(-i theta_b), ``other`` sin theta_a e^(-i theta_b).
    """

    same: Tensor
    other: Tensor

    def forth(self, moments: Tensor) -> Tensor:
        """E_delta[R X R^T] for every query head: X (m, r, r) or (r, r) -> (m, r, r)."""
        half, rows = self.same.shape[-1], to_pairs(moments.mT).mT
        first, second = rows[..., :half, :], rows[..., half:, :]
        turned = [self.same * first + self.other * second, self.same * second - self.other * first]
        return from_pairs(torch.cat(turned, dim=-2).mT).mT

    def side_by_side(self) -> TurningSideBySide:
        """The same for numpy, on the CPU, of moments with pairs side by side."""
        same, other = (table.cpu().numpy() for table in (self.same, self.other))
        both = np.stack([same, same], axis=-2), np.stack([other, -other], axis=-2)
        return TurningSideBySide(*both, both[0].conj(), -both[1].conj())


@dataclass(frozen=True)
class TurningSideBySide:
    """As ``Turning``, of rows and columns in the order x_0, y_0, x_1, y_1, ...: no number is copied to be turned.

    Each table (..., m, r/2, 2, r/2).
    """

    same: ComplexArray
    other: ComplexArray
    same_back: ComplexArray
    other_back: ComplexArray

    def of(self, queries: IntArray) -> TurningSideBySide:
        """The averages of some of these query heads, (..., m)."""
        return TurningSideBySide(
            self.same[queries], self.other[queries], self.same_back[queries], self.other_back[queries]
        )

    def forth(self, moments: FloatArray) -> FloatArray:
        """E_delta[R X R^T]: X (..., m, r, r), or with 1 for m -> (..., m, r, r); of X^T it is the transpose."""
        return _turned(moments, self.same, self.other)

    def back(self, moments: FloatArray) -> FloatArray:
        """E_delta[R^T X R], likewise."""
        return _turned(moments, self.same_back, self.other_back)


def _turned(moments: FloatArray, same: ComplexArray, other: ComplexArray) -> FloatArray:
    half = same.shape[-1]
    pairs = moments.reshape(*moments.shape[:-2], half, 2, 2 * half).view(np.complex128)
    turned: ComplexArray = same * pairs
    turned += other * pairs[..., ::-1, :]
    return turned.view(np.float64).reshape(*turned.shape[:-3], 2 * half, 2 * half)

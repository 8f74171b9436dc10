"""Scores of a query and a key over the relative positions that attention looks at.

RoPE turns a key by -delta theta_i against a query delta tokens later: s = q^T R_delta k. Where attention looks a
few tokens back, slow pairs hardly turn, and any matrix passes them nearly unchanged; fast pairs let only one complex
factor through. Averages over the positions that are looked at know the difference:

    E (q^T R k)^2 = <E[q q^T], E_delta[R E[k k^T] R^T]>   for tokens that are independent of each other and of delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.merging.score_pairs import from_pairs, to_pairs

# Share of the positions drawn from anywhere: a score that goes wrong where attention does not look draws it there.
ANYWHERE = 0.1


def turning_of(statistics: LayerStatistics, like: Tensor, rotary_dim: int, queries: Sequence[int]) -> Turning:
    """Averages over a layer's relative positions for m of its query heads, each by where its own attention goes.

    ``like``: a float64 tensor on the device to compute on. ``rotary_dim``: 0 in a layer that does not use the turns
    that the model computes for its others.
    """
    distance = statistics.distance.to(like)[list(queries)]  # zeros for a head that nothing reads
    length = distance.shape[1]
    anywhere = torch.arange(length, 0, -1).to(like)  # pairs of tokens that far apart
    shares = ((1 - ANYWHERE) * distance + ANYWHERE * anywhere / anywhere.sum()).to(torch.complex128)
    half = rotary_dim // 2
    cosines, sines = (table[:, :half].to(like) for table in (statistics.cosines, statistics.sines))
    turns = torch.complex(cosines, -sines)
    same = torch.einsum("ht,ta,tb->hab", shares, cosines.to(turns), turns)
    other = torch.einsum("ht,ta,tb->hab", shares, sines.to(turns), turns)
    return Turning(same, other)


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
        """The same, of moments with pairs side by side."""
        same, other = self.same, self.other
        return TurningSideBySide(same, other, same.conj().resolve_conj(), -other.conj().resolve_conj())


@dataclass(frozen=True)
class TurningSideBySide:
    """As ``Turning``, of rows and columns in the order x_0, y_0, x_1, y_1, ...: no number is copied to be turned.

    Each table (..., m, s/2, r/2), of some s/2 of the pairs, all as a rule, with all r/2.
    """

    same: Tensor
    other: Tensor
    same_back: Tensor
    other_back: Tensor

    def of(self, queries: Tensor) -> TurningSideBySide:
        """The averages of some of these query heads, (..., m)."""
        return TurningSideBySide(
            self.same[queries], self.other[queries], self.same_back[queries], self.other_back[queries]
        )

    def of_pairs(self, rows: Tensor) -> TurningSideBySide:
        """The averages for moments of these pairs with all of them."""
        tables = (self.same, self.other, self.same_back, self.other_back)
        return TurningSideBySide(*(table.index_select(-2, rows) for table in tables))

    def forth(self, moments: Tensor) -> Tensor:
        """E_delta[R X R^T]: X (..., m, s, r), or with 1 for m -> (..., m, s, r); of X^T it is the transpose."""
        return _turned(moments, self.same, self.other)

    def back(self, moments: Tensor) -> Tensor:
        """E_delta[R^T X R], likewise."""
        return _turned(moments, self.same_back, self.other_back)


def _turned(moments: Tensor, same: Tensor, other: Tensor) -> Tensor:
    high, wide = same.shape[-2:]
    rows = torch.view_as_complex(moments.reshape(*moments.shape[:-2], high, 2, wide, 2))
    first, second = rows[..., 0, :], rows[..., 1, :]
    turned = same.new_empty(*same.shape[:-2], high, 2, wide)
    torch.addcmul(same * first, other, second, out=turned[..., 0, :])
    torch.addcmul(same * second, other, first, value=-1, out=turned[..., 1, :])
    return torch.view_as_real(turned).view(*same.shape[:-2], 2 * high, 2 * wide)

"""Scores of a query and a key over the relative positions that attention looks at.

RoPE turns a key by -delta theta_i against a query delta tokens later: s = q^T R_delta k. Where attention looks a
few tokens back, slow pairs hardly turn, and any matrix passes them nearly unchanged; fast pairs let only one complex
factor through. Averages over the positions that are looked at know the difference:

    E (q^T R k)^2 = <E[q q^T], E_delta[R E[k k^T] R^T]>   for tokens that are independent of each other and of delta.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics

Moments = TypeVar("Moments", bound=Any)

# Share of the positions drawn from anywhere: a score that goes wrong where attention does not look draws it there.
ANYWHERE = 0.1


class RelativePositions:
    """Averages over a layer's relative positions, for every query head by where its own attention goes."""

    def __init__(self, statistics: LayerStatistics, like: Tensor) -> None:
        """``like``: a tensor of the dtype and device to compute in."""
        distance = statistics.distance.to(like)  # zeros for a head that nothing reads, whose scores cost nothing
        length = distance.shape[1]
        anywhere = torch.arange(length, 0, -1).to(like)  # pairs of tokens that far apart
        shares = (1 - ANYWHERE) * distance + ANYWHERE * anywhere / anywhere.sum()
        cosines = statistics.cosines.to(like).repeat(1, 2)
        sines = statistics.sines.to(like).repeat(1, 2)
        # R = cos + sin P with P the quarter turn of every pair, (P x)_a = sign_a x_partner(a), so R X R^T has four
        # terms; each table (Hq, r, r) holds the average and the signs of one.
        half = cosines.shape[1] // 2
        sign = torch.ones(2 * half).to(like)
        sign[half:] = -1
        self.partner = torch.arange(2 * half, device=like.device).roll(half)
        mixed = torch.einsum("ht,ta,tb->hab", shares, cosines, sines)
        self._tables = (
            torch.einsum("ht,ta,tb->hab", shares, cosines, cosines),
            mixed * sign,
            mixed.mT * sign[:, None],
            torch.einsum("ht,ta,tb->hab", shares, sines, sines) * sign * sign[:, None],
        )

    def of(self, queries: list[int]) -> Turning[Tensor]:
        """The averages of these query heads."""
        return Turning(self.partner, *(table[queries] for table in self._tables))


@dataclass(frozen=True)
class Turning(Generic[Moments]):
    """Averages over the relative positions of m query heads; tensors, or numpy arrays in and out."""

    partner: Moments
    plain: Moments
    right: Moments
    left: Moments
    both: Moments

    def as_arrays(self) -> Turning[NDArray[np.float64]]:
        """The same for numpy, on the CPU."""
        return Turning(*(np.asarray(getattr(self, field.name).cpu()) for field in fields(self)))

    def of(self, queries: NDArray[np.int64]) -> Turning[Moments]:
        """The averages of some of these query heads."""
        return replace(
            self,
            plain=self.plain[queries],
            right=self.right[queries],
            left=self.left[queries],
            both=self.both[queries],
        )

    def forth(self, moments: Moments) -> Moments:
        """E_delta[R X R^T] for every query head: X (m, r, r) or (r, r) -> (m, r, r)."""
        turned = moments[..., self.partner]
        straight = self.plain * moments + self.both * turned[..., self.partner, :]
        total: Moments = straight + self.right * turned + self.left * moments[..., self.partner, :]
        return total

    def back(self, moments: Moments) -> Moments:
        """E_delta[R^T X R]: as ``forth``, the other way round."""
        turned = moments[..., self.partner]
        straight = self.plain * moments + self.both * turned[..., self.partner, :]
        total: Moments = straight - self.right * turned - self.left * moments[..., self.partner, :]
        return total

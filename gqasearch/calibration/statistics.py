"""What one pass over the calibration text says about every layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one layer's attention input ``x`` (after the norm) and of its attention.

    ``tokens``: how many tokens were counted (padding never is).
    ``mean`` (D,) and ``second_moment`` (D, D): E[x] and C = E[x x^T], float64.
    ``sample`` (S, D): evenly spaced rows of x, float32.
    ``key_cosine``, ``value_cosine`` (H, H): cosine of the heads' pre-RoPE keys, and values, at the same
    token, averaged over tokens.
    ``value_gain`` (Hq,): E||o_q||^2 / E||W_o,q W_v x||^2, how much of a query head's value energy is
    left after attention has averaged values over tokens (o_q = what the head adds to the output).
    ``score_gain`` (Hq,): E_t sum_s a_ts^2 ||W_o,q (v_s - o_t)||^2, the squared change of the head's
    output for independent unit-variance errors of its attention scores.
    ``residual_energy`` (1,): E||r||^2 of the residual stream r just after this layer's attention; what
    follows reads it through a norm, so an error counts relative to it.
    """

    tokens: int
    mean: Tensor
    second_moment: Tensor
    sample: Tensor
    key_cosine: Tensor
    value_cosine: Tensor
    value_gain: Tensor
    score_gain: Tensor
    residual_energy: Tensor

    def moment(self, with_bias: bool) -> Tensor:
        """C, or E[[x; 1][x; 1]^T] (D + 1, D + 1) for weights augmented by their bias."""
        if not with_bias:
            return self.second_moment
        size = self.mean.shape[0]
        moment = self.second_moment.new_ones(size + 1, size + 1)
        moment[:size, :size] = self.second_moment
        moment[:size, size] = moment[size, :size] = self.mean
        return moment


class Statistics(ABC):
    """The statistics of all layers, one at a time."""

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Tokens counted."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the text came from, in words."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """``sha256:...`` of model, text and settings together: the key of the cache."""

    @abstractmethod
    def layer(self, index: int) -> LayerStatistics:
        """One layer's statistics; read from disk on demand."""

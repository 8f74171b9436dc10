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
    token, averaged over tokens; under LayerNorms of single heads of what these leave of keys.
    ``attended_mean`` (D,), ``attended_moment`` (D, D): mean and second moment of what attention makes of x, the
    sum over tokens s of a_ts x_s, over tokens t and query heads alike (every token stands for one head, in turn).
    ``distance`` (Hq, T): shares of ``score_gain`` that are due to tokens 0, 1, 2, ... back, in an encoder
    back or ahead; zeros for a head whose scores change nothing.
    ``cosines``, ``sines`` (T, r/2): what RoPE turns a pair by over 0, 1, 2, ... tokens; r = 0 without RoPE.
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
    attended_mean: Tensor
    attended_moment: Tensor
    score_gain: Tensor
    residual_energy: Tensor
    distance: Tensor
    cosines: Tensor
    sines: Tensor

    def moment(self, with_bias: bool) -> Tensor:
        """C, or E[[x; 1][x; 1]^T] (D + 1, D + 1) for weights augmented by their bias."""
        return _augmented_moment(self.second_moment, self.mean) if with_bias else self.second_moment

    def attended(self, with_bias: bool) -> Tensor:
        """``attended_moment``, augmented in the same way: attention leaves the 1 as it is."""
        return _augmented_moment(self.attended_moment, self.attended_mean) if with_bias else self.attended_moment


def _augmented_moment(second: Tensor, mean: Tensor) -> Tensor:
    size = mean.shape[0]
    moment = second.new_ones(size + 1, size + 1)
    moment[:size, :size] = second
    moment[:size, size] = moment[size, :size] = mean
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

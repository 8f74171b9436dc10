"""One group after its merge."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class MergedGroup:
    """One group after its merge. n heads, m = n * queries_per_kv query heads, in the group's order.

    ``k`` (d, D), ``v`` (dv, D), ``q`` (m, d, D), ``o`` (m, D, dv); biases ``k_bias`` (d,), ``v_bias``
    (dv,), ``q_bias`` (m, d) or None.
    """

    k: Tensor
    v: Tensor
    q: Tensor
    o: Tensor
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    q_bias: Tensor | None = None

    def scaled(self, k_scale: Tensor, v_scale: Tensor) -> MergedGroup:
        """K and V, with their biases, times these factors."""
        return replace(
            self,
            k=self.k * k_scale,
            v=self.v * v_scale,
            k_bias=None if self.k_bias is None else self.k_bias * k_scale,
            v_bias=None if self.v_bias is None else self.v_bias * v_scale,
        )

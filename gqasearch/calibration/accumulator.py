"""Running sums of one layer's statistics over batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.models import HeadGeometry, LayerWeights

TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class _Fields:
    """Shapes of the sums."""

    geometry: HeadGeometry
    length: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        g = self.geometry
        heads, queries = g.num_kv_heads, g.num_attention_heads
        return {
            "tokens": (1,),
            "mean": (g.hidden_size,),
            "second_moment": (g.hidden_size, g.hidden_size),
            "key_cosine": (heads, heads),
            "value_cosine": (heads, heads),
            "attended_mean": (g.hidden_size,),
            "attended_moment": (g.hidden_size, g.hidden_size),
            "distance": (queries, self.length),
            "score_gain": (queries,),
            "residual_energy": (1,),
        }


class LayerAccumulator:
    """Sums in float64, on the device of ``weights`` where that has float64, else on the CPU."""

    def __init__(
        self, geometry: HeadGeometry, weights: LayerWeights, length: int, stride: int, sample_tokens: int
    ) -> None:
        shapes = _Fields(geometry, length).shapes()
        self.device = torch.device("cpu") if weights.q.device.type == "mps" else weights.q.device
        self.sums = {
            name: torch.zeros(shape, dtype=torch.float64, device=self.device) for name, shape in shapes.items()
        }
        self.reads = torch.einsum("qax,qay->qxy", weights.o.float(), weights.o.float())  # W_o^T W_o (Hq, dv, dv)
        self.stride, self.sample_tokens, self.seen, self.length = stride, sample_tokens, 0, length
        self.cosines = self.sines = torch.zeros(length, 0, dtype=torch.float64)
        self.turned = 0  # the positions that they are known of
        self.sample: list[Tensor] = []

    def add(self, hidden: Tensor, maps: Tensor, residual: Tensor, mask: Tensor, weights: LayerWeights) -> None:
        """One batch: ``hidden`` (B, T, D), attention ``maps`` (B, Hq, T, T), ``mask`` (B, T) bool.

        ``residual`` (B, T, D): the residual stream just after attention.
        """
        x = hidden[mask].float()
        self._add("residual_energy", residual[mask].float().square().sum().view(1))
        self._add("tokens", torch.tensor([float(len(x))]))
        normed = _normed(x, weights)
        self._add("mean", normed.sum(0))
        self._add("second_moment", normed.T @ normed)
        self._take_sample(x)
        for name, weight, bias in (("key", weights.k, weights.k_bias), ("value", weights.v, weights.v_bias)):
            heads = torch.einsum("td,ghd->tgh", x, weight.float())
            heads = heads if bias is None else heads + bias.float()
            if name == "key" and weights.centred and weights.norm_of_keys is not None:
                heads = weights.norm_of_keys.of(heads)
            unit = torch.nn.functional.normalize(heads, dim=-1)
            self._add(f"{name}_cosine", torch.einsum("tgh,tkh->gk", unit, unit))
        self._add_gains(hidden.float(), maps.float(), mask, weights)
        self._add_attended(hidden.float(), maps.float(), mask)

    def set_turns(self, cosines: Tensor, sines: Tensor, rotary_dim: int) -> None:
        """What RoPE turns by at every position, (T, r) as transformers has it: every pair's twice, maybe scaled.

        gpt-oss has every pair's once: (T, r/2). The halves are alike or, where neighbours form a pair (Cohere), the
        even and the odd columns. Those of the longest batch are kept; positions beyond it never occur, and are turned
        by nothing.
        """
        if len(cosines) < self.turned:
            return
        self.turned = len(cosines)
        if 2 * cosines.shape[-1] == rotary_dim:
            cosines, sines = (torch.cat([part, part], -1) for part in (cosines, sines))
        half = cosines.shape[-1] // 2
        alike = torch.equal(cosines[:, :half], cosines[:, half:]) and torch.equal(sines[:, :half], sines[:, half:])
        every = slice(half) if alike else slice(None, None, 2)
        cosines, sines = (part[:, every].to("cpu", torch.float64) for part in (cosines, sines))
        size = torch.hypot(cosines, sines)
        beyond = (0, 0, 0, self.length - self.turned)
        self.cosines = torch.nn.functional.pad(cosines / size, beyond, value=1.0)
        self.sines = torch.nn.functional.pad(sines / size, beyond)

    def _add_attended(self, hidden: Tensor, maps: Tensor, mask: Tensor) -> None:
        """x as attention averages it. All heads would cost Hq times as much: token t stands for head t mod Hq."""
        tokens = torch.arange(hidden.shape[1], device=hidden.device)
        attended = (maps[:, tokens % maps.shape[1], tokens] @ hidden)[mask]
        self._add("attended_mean", attended.sum(0))
        self._add("attended_moment", attended.T @ attended)

    def _add_gains(self, hidden: Tensor, maps: Tensor, mask: Tensor, weights: LayerWeights) -> None:
        """The effect of unit score errors, per query head and by how far away the key is.

        With S = W_o^T W_o and o_t = sum_s a_ts v_s a score error of (t, s) costs
        a_ts^2 ||W_o (v_s - o_t)||^2 = a_ts^2 (v_s^T S v_s - 2 v_s^T S o_t + o_t^T S o_t).
        """
        values = torch.einsum("btd,ghd->bgth", hidden, weights.v.float())
        if weights.v_bias is not None:
            values = values + weights.v_bias.float()[:, None]
        values = values.repeat_interleave(weights.queries_per_kv, dim=1)  # (B, Hq, T, dv)
        norms = torch.einsum("bqth,qhk,bqtk->bqt", values, self.reads, values)
        output = maps @ values
        read = torch.einsum("bqth,qhk->bqtk", output, self.reads)
        energy = (read * output).sum(-1)
        spread = norms[:, :, None] - 2 * read @ values.mT + energy[..., None]
        cost = maps.square() * spread.clamp_min(0) * mask[:, None, :, None]
        self._add("score_gain", cost.sum((0, 2, 3)))
        self.sums["distance"][:, : cost.shape[-1]] += _by_distance(cost.sum(0)).to(self.device, torch.float64)

    def _take_sample(self, x: Tensor) -> None:
        first = -self.seen % self.stride
        room = self.sample_tokens - sum(map(len, self.sample))
        self.sample.append(x[first :: self.stride][:room].to("cpu", copy=True))  # a view would keep all of x
        self.seen += len(x)

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] += value.to(self.device, torch.float64)

    def result(self) -> LayerStatistics:
        """The statistics so far."""
        count = float(self.sums["tokens"])
        mean = {name: total.cpu() / count for name, total in self.sums.items()}
        moment, attended = mean["second_moment"], mean["attended_moment"]
        return LayerStatistics(
            tokens=round(count),
            mean=mean["mean"],
            second_moment=(moment + moment.T) / 2,
            sample=torch.cat(self.sample),
            key_cosine=mean["key_cosine"],
            value_cosine=mean["value_cosine"],
            attended_mean=mean["attended_mean"],
            attended_moment=(attended + attended.T) / 2,
            score_gain=mean["score_gain"].clamp_min(0),
            residual_energy=mean["residual_energy"],
            distance=mean["distance"] / mean["distance"].sum(1, keepdim=True).clamp_min(TINY),
            cosines=self.cosines,
            sines=self.sines,
        )


def _normed(x: Tensor, weights: LayerWeights) -> Tensor:
    """Tokens (T, D) as keys and queries are made of them: under norms over all heads, each over what these divide by.

    The one norm's and the other's, of which a score has both, in equal shares.
    """
    for rows in (weights.q_rows, weights.k_rows):
        if rows is not None:
            sizes = torch.einsum("td,ghd->tgh", x, rows.float()).square().mean((1, 2))
            x = x * sizes.clamp_min(torch.finfo(x.dtype).tiny).pow(-0.25)[:, None]
    return x


def _by_distance(cost: Tensor) -> Tensor:
    """Sums over the diagonals of (Hq, T, T): pairs (t, s) with |t - s| = 0, 1, 2, ..., (Hq, T).

    A decoder's maps are zero where s > t.
    """
    tokens = torch.arange(cost.shape[-1], device=cost.device)
    apart = (tokens[:, None] - tokens).abs().flatten()
    return cost.new_zeros(cost.shape[:2]).index_add_(1, apart, cost.flatten(1))

"""Running sums of one layer's statistics over batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.models import HeadGeometry, LayerWeights


@dataclass(frozen=True)
class _Fields:
    """Shapes of the sums, laid out one after another in the layer's file."""

    geometry: HeadGeometry

    def shapes(self) -> dict[str, tuple[int, ...]]:
        g = self.geometry
        heads, queries = g.num_kv_heads, g.num_attention_heads
        return {
            "tokens": (1,),
            "mean": (g.hidden_size,),
            "second_moment": (g.hidden_size, g.hidden_size),
            "key_cosine": (heads, heads),
            "value_cosine": (heads, heads),
            "value_energy": (queries,),  # of W_o W_v x
            "output_energy": (queries,),  # of what attention makes of it
            "score_gain": (queries,),
            "residual_energy": (1,),
        }


class LayerAccumulator:
    """Sums in float64, in a memory-mapped file."""

    def __init__(
        self, path: Path, geometry: HeadGeometry, weights: LayerWeights, stride: int, sample_tokens: int
    ) -> None:
        shapes = _Fields(geometry).shapes()
        sizes = {name: torch.Size(shape).numel() for name, shape in shapes.items()}
        flat = torch.from_file(str(path), shared=True, size=sum(sizes.values()), dtype=torch.float64)
        flat.zero_()
        parts = flat.split(list(sizes.values()))
        self.sums = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        self.reads = torch.einsum("qax,qay->qxy", weights.o.float(), weights.o.float())  # W_o^T W_o (Hq, dv, dv)
        self.stride, self.sample_tokens, self.seen = stride, sample_tokens, 0
        self.sample: list[Tensor] = []

    def add(self, hidden: Tensor, maps: Tensor, residual: Tensor, mask: Tensor, weights: LayerWeights) -> None:
        """One batch: ``hidden`` (B, T, D), attention ``maps`` (B, Hq, T, T), ``mask`` (B, T) bool.

        ``residual`` (B, T, D): the residual stream just after attention.
        """
        x = hidden[mask].float()
        self._add("residual_energy", residual[mask].float().square().sum().view(1))
        self._add("tokens", torch.tensor([float(len(x))]))
        self._add("mean", x.sum(0))
        self._add("second_moment", x.T @ x)
        self._take_sample(x)
        for name, weight, bias in (("key", weights.k, weights.k_bias), ("value", weights.v, weights.v_bias)):
            heads = torch.einsum("td,ghd->tgh", x, weight.float())
            heads = heads if bias is None else heads + bias.float()
            unit = torch.nn.functional.normalize(heads, dim=-1)
            self._add(f"{name}_cosine", torch.einsum("tgh,tkh->gk", unit, unit))
        self._add_gains(hidden.float(), maps.float(), mask, weights)

    def _add_gains(self, hidden: Tensor, maps: Tensor, mask: Tensor, weights: LayerWeights) -> None:
        """Energies of values before and after attention, and the effect of unit score errors, per query head.

        With S = W_o^T W_o, n_s = v_s^T S v_s and o = sum_s a_s v_s:
        sum_s a_s^2 ||W_o (v_s - o)||^2 = sum_s a_s^2 n_s - 2 (sum_s a_s^2 v_s)^T S o + (sum_s a_s^2) o^T S o.
        """
        values = torch.einsum("btd,ghd->bgth", hidden, weights.v.float())
        if weights.v_bias is not None:
            values = values + weights.v_bias.float()[:, None]
        values = values.repeat_interleave(weights.queries_per_kv, dim=1)  # (B, Hq, T, dv)
        squared = maps.square()
        norms = torch.einsum("bqth,qhk,bqtk->bqt", values, self.reads, values)
        output, weighted = maps @ values, squared @ values
        read = torch.einsum("bqth,qhk->bqtk", output, self.reads)
        energy = (read * output).sum(-1)
        score = (squared @ norms[..., None])[..., 0] - 2 * (weighted * read).sum(-1) + squared.sum(-1) * energy
        counted = mask[:, None].float()
        self._add("value_energy", (norms * counted).sum((0, 2)))
        self._add("output_energy", (energy * counted).sum((0, 2)))
        self._add("score_gain", (score * counted).sum((0, 2)))

    def _take_sample(self, x: Tensor) -> None:
        first = -self.seen % self.stride
        room = self.sample_tokens - sum(map(len, self.sample))
        self.sample.append(x[first :: self.stride][:room].cpu())
        self.seen += len(x)

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] += value.to("cpu", torch.float64)

    def result(self) -> LayerStatistics:
        """The statistics so far."""
        count = float(self.sums["tokens"])
        mean = {name: total / count for name, total in self.sums.items()}
        moment = mean["second_moment"]
        tiny = torch.finfo(torch.float64).tiny
        return LayerStatistics(
            tokens=round(count),
            mean=mean["mean"],
            second_moment=(moment + moment.T) / 2,
            sample=torch.cat(self.sample),
            key_cosine=mean["key_cosine"],
            value_cosine=mean["value_cosine"],
            value_gain=mean["output_energy"] / mean["value_energy"].clamp_min(tiny),
            score_gain=mean["score_gain"].clamp_min(0),
            residual_energy=mean["residual_energy"],
        )

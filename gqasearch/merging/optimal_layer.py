"""The arithmetic of the optimal merge for heads without norms; see ``optimal``."""

from __future__ import annotations

import torch
from torch import Tensor

from gqasearch.calibration.statistics import LayerStatistics
from gqasearch.errors import UserError
from gqasearch.merging._base import LayerMerge
from gqasearch.merging.merged_group import MergedGroup
from gqasearch.merging.score_pairs import effective_pairs, from_pairs, pair_moments, to_pairs
from gqasearch.models import LayerWeights, augmented

# Relative floor under which an eigenvalue or energy counts as zero, in float64.
NEGLIGIBLE = 1e-13


class OptimalLayer(LayerMerge):
    """Gram matrices of all heads, computed once; a group is a sub-matrix and its eigenvectors."""

    def __init__(self, weights: LayerWeights, statistics: LayerStatistics) -> None:
        super().__init__(weights, statistics)
        self.statistics: LayerStatistics = statistics
        if weights.rotary_dim != weights.head_dim:
            raise UserError(f"merge optimal needs RoPE over the whole head; this model rotates {weights.rotary_dim}")
        w = self.weights
        self.moment = statistics.moment(w.has_biases).to(w.q)
        self.value_gain = statistics.value_gain.to(w.q)
        self.score_gain = statistics.score_gain.to(w.q)
        self.value_roots = self._value_roots()
        self.value_rows = self.value_roots @ augmented(w.v, w.v_bias, w.has_biases)
        flat = self.value_rows.flatten(0, 1)
        self.value_gram = flat @ self.moment @ flat.T
        self.keys = effective_pairs(w.k, w.k_bias, w.k_norm, self.moment)
        self.energy = self._query_energy()
        scaled = (self.energy.sqrt()[..., None] * self.keys).transpose(0, 1)
        self.key_gram = scaled @ self.moment.to(scaled.dtype) @ scaled.mH

    def _value_roots(self) -> Tensor:
        """S_h (H, dv, dv) with S_h^T S_h = sum over the head's queries of gain W_o^T W_o."""
        w, m = self.weights, self.source.queries_per_kv
        reads = torch.einsum("q,qax,qay->qxy", self.value_gain, w.o, w.o)
        values, vectors = torch.linalg.eigh(reads.unflatten(0, (-1, m)).sum(1))
        roots: Tensor = values.clamp_min(0).sqrt()[..., None] * vectors.mT
        return roots

    def _query_energy(self) -> Tensor:
        """e (H, d/2): what a unit squared error of a key pair costs at the layer's output."""
        w, m = self.weights, self.source.queries_per_kv
        pairs = effective_pairs(w.q, w.q_bias, w.q_norm, self.moment)
        energy = pair_moments(pairs, pairs, self.moment).real * self.score_gain[:, None] / (2 * w.head_dim)
        total: Tensor = energy.unflatten(0, (-1, m)).sum(1)
        return total.clamp_min(NEGLIGIBLE * float(total.max().clamp_min(torch.finfo(total.dtype).tiny)))

    def _value_block(self, heads: tuple[int, ...]) -> Tensor:
        size = self.weights.v.shape[1]
        rows = torch.cat([torch.arange(h * size, (h + 1) * size) for h in heads]).to(self.value_gram.device)
        return self.value_gram[rows][:, rows]

    def _key_block(self, heads: tuple[int, ...]) -> Tensor:
        index = torch.tensor(heads, device=self.key_gram.device)
        return self.key_gram[:, index][:, :, index]

    def _group_error(self, heads: tuple[int, ...]) -> float:
        values = torch.linalg.eigvalsh(self._value_block(heads))[: -self.weights.v.shape[1]]
        keys = torch.linalg.eigvalsh(self._key_block(heads))[:, :-1]
        return float(values.clamp_min(0).sum() + keys.clamp_min(0).sum())

    def _merge_group(self, heads: tuple[int, ...]) -> MergedGroup:
        v, v_bias, o = self._merge_values(heads)
        k, k_bias, q, q_bias = self._merge_keys(heads)
        return MergedGroup(k=k, v=v, q=q, o=o, k_bias=k_bias, v_bias=v_bias, q_bias=q_bias)

    def _merge_values(self, heads: tuple[int, ...]) -> tuple[Tensor, Tensor | None, Tensor]:
        """Shared V (dv, D), its bias, and the outputs (m, D, dv) that read it."""
        w, index, queries = self.weights, list(heads), self.queries_of(heads)
        size = w.v.shape[1]
        energies, vectors = torch.linalg.eigh(self._value_block(heads))
        top, energies = vectors[:, -size:], energies[-size:]
        shared = top.T @ self.value_rows[index].flatten(0, 1)
        own = augmented(w.v, w.v_bias, w.has_biases)[index]
        maps = own @ self.moment @ shared.T  # times 1 / energies: the regression of v_h on the shared V
        typical = torch.einsum("hdi,ij,hdj->hd", own, self.moment, own).mean()
        usable = energies > NEGLIGIBLE * energies[-1].clamp_min(torch.finfo(energies.dtype).tiny)
        scale = torch.where(usable, (typical / energies.clamp_min(torch.finfo(energies.dtype).tiny)).sqrt(), 0.0)
        shared = scale[:, None] * shared
        maps = torch.where(usable, maps * scale / typical, 0.0)
        o = w.o[queries] @ maps.repeat_interleave(self.source.queries_per_kv, dim=0)
        hidden = w.v.shape[-1]
        return shared[:, :hidden], None if w.v_bias is None else shared[:, hidden], o

    def _merge_keys(self, heads: tuple[int, ...]) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """Shared K (d, D), its bias, and the queries (m, d, D) turned to read it, with theirs."""
        w, index = self.weights, list(heads)
        _, vectors = torch.linalg.eigh(self._key_block(heads))
        root = self.energy[index].sqrt()
        leading = vectors[..., -1].T  # a (n, d/2)
        shared = (leading.conj() * root)[..., None] * self.keys[index]
        shared = shared.sum(0)
        factor = leading / root
        size = pair_moments(shared, shared, self.moment).real
        typical = pair_moments(self.keys[index], self.keys[index], self.moment).real.mean(0)
        scale = torch.where(size > 0, (typical / size.clamp_min(torch.finfo(size.dtype).tiny)).sqrt(), 1.0)
        scale = torch.where(scale > 0, scale, 1.0)
        k = from_pairs(shared * scale[:, None])
        q, q_bias = self._turn_queries(heads, factor / scale)
        hidden = w.k.shape[-1]
        return k[:, :hidden], None if w.k_bias is None else k[:, hidden], q, q_bias

    def _turn_queries(self, heads: tuple[int, ...], factor: Tensor) -> tuple[Tensor, Tensor | None]:
        """Queries times conj(factor) (n, d/2), (m, d, D), and their biases."""
        w, queries = self.weights, self.queries_of(heads)
        turn = factor.conj().repeat_interleave(self.source.queries_per_kv, dim=0)[..., None]
        q = from_pairs(turn * to_pairs(w.q[queries]))
        if w.q_bias is None:
            return q, None
        return q, from_pairs(turn * to_pairs(w.q_bias[queries][..., None]))[..., 0]

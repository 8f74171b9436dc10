"""Low rank in Palu's form, a rival: fewer numbers are cached than keys have, and every key is rebuilt from them.

Palu (arXiv 2407.21118, sections 3.1 and 3.2) factors the K and V projections of a group of n heads, W = B A with A
(r, D), by a truncated SVD that is whitened by the second moment C of what the projection reads, caches the latent
A x, rebuilds all n keys of every cached token before RoPE in every step, and moves the values' B into W_o. ReCalKV
(arXiv 2505.24357) does the same with heads in another order. With U the r leading eigenvectors of W C W^T the best
factors are B = U and A = U^T W: an orthonormal basis of what the group's keys are, so a random rotation of it, which
spreads what is large before a latent is rounded (their Hadamard rotation, section 3.4), costs nothing.

Every group of every layer gets the same rank here: Palu's search of ranks by Fisher information is left out. Nothing
is fitted afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gqasearch.calibration import Statistics
from gqasearch.errors import UserError
from gqasearch.evaluation import ParentLayers
from gqasearch.evaluation.runners import RunLayer
from gqasearch.models import Arguments, HeadGeometry, Parent
from gqasearch.rounding import CacheFormat, KVFormat

SEED = 0  # of the rotations


@dataclass(frozen=True)
class LowRank:
    """``share`` of the numbers of ``heads`` KV heads is cached, the same in all layers, of keys and of values."""

    share: float
    heads: int

    def rank(self, shape: HeadGeometry) -> int:
        """Numbers of one latent; raises ``UserError`` where the heads of a layer are no groups of ``heads``."""
        if shape.num_kv_heads % self.heads:
            raise UserError(f"{shape.num_kv_heads} KV heads are no groups of {self.heads}")
        return max(1, round(self.share * self.heads * shape.head_dim))

    def latents(self, shape: HeadGeometry) -> int:
        """How many a token has of keys, and as many of values, all layers' together."""
        return shape.num_layers * shape.num_kv_heads // self.heads

    def bytes_per_token(self, shape: HeadGeometry, kv: KVFormat, context: int) -> float:
        """Bytes of the latents in a cache of ``context`` tokens."""
        return kv.bytes_per_token(self.latents(shape), self.latents(shape), self.rank(shape), context)


def basis(weight: Tensor, moment: Tensor, rank: int, rng: torch.Generator) -> Tensor:
    """Orthonormal U (n d, rank) that keeps most of E||W x||^2, rotated at random: W (n d, D), E[x x^T] (D, D)."""
    own = weight.double()
    leading = torch.linalg.eigh(own @ moment.double() @ own.T).eigenvectors[:, -rank:]
    rotation = torch.linalg.qr(torch.randn(rank, rank, dtype=torch.float64, generator=rng)).Q
    found: Tensor = leading @ rotation
    return found


@dataclass(frozen=True)
class LayerBases:
    """What the latents of one layer are rebuilt by: ``keys`` and ``values``, each (groups, n d, rank)."""

    keys: Tensor
    values: Tensor


def find_bases(parent: Parent, statistics: Statistics, low_rank: LowRank) -> list[LayerBases]:
    """Of every layer; raises ``UserError`` as ``LowRank.rank`` does."""
    rank, rng = low_rank.rank(parent.geometry), torch.Generator().manual_seed(SEED)

    def of_heads(weight: Tensor, moment: Tensor) -> Tensor:
        groups = weight.unflatten(0, (-1, low_rank.heads)).flatten(1, 2)
        return torch.stack([basis(group, moment, rank, rng) for group in groups]).float()

    found = []
    for index in range(parent.geometry.num_layers):
        layer, moment = parent.layer(index), statistics.layer(index).second_moment
        found.append(LayerBases(of_heads(layer.k, moment), of_heads(layer.v, moment)))
    return found


@dataclass(frozen=True)
class LowRankLayers(ParentLayers):
    """The parent with keys and values that are read from latents, which ``kv`` rounds where it is given."""

    bases: tuple[LayerBases, ...] = ()
    kv: KVFormat | None = None

    @contextmanager
    def layer_loaded(self, index: int) -> Iterator[RunLayer]:
        with super().layer_loaded(index) as run:
            hooks = self._hooks(index)

            def hooked(hidden: Tensor, arguments: Arguments) -> Tensor:
                with ExitStack() as stack:  # other models run on the same modules, in turn
                    for module, hook in hooks:
                        stack.callback(module.register_forward_hook(hook).remove)
                    return run(hidden, arguments)

            yield hooked

    def _hooks(self, index: int) -> list[tuple[nn.Module, Callable[..., Tensor]]]:
        weights, found = self.parent.layer(index), self.bases[index]
        sides = (
            ("k", weights.k_bias, found.keys, None if self.kv is None else self.kv.k),
            ("v", weights.v_bias, found.values, None if self.kv is None else self.kv.v),
        )
        hooks: list[tuple[nn.Module, Callable[..., Tensor]]] = []
        for role, bias, own, kind in sides:
            module, columns = projection(self.parent, index, role)
            flat = torch.zeros(()) if bias is None else bias.flatten()
            hooks.append((module, _Rebuilt(columns, flat, own, kind)))
        return hooks


@dataclass(frozen=True)
class _Rebuilt:
    """After a projection: its ``columns``, less their ``bias``, by way of latents; the others as they are."""

    columns: slice
    bias: Tensor
    bases: Tensor
    kind: CacheFormat | None

    def __call__(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        own = (output[..., self.columns] - self.bias).unflatten(-1, (len(self.bases), -1)).movedim(-2, -3)
        latents = own @ self.bases  # (B, groups, T, rank)
        if self.kind is not None:
            latents = self.kind.round(latents)
        whole = output.clone()
        whole[..., self.columns] = (latents @ self.bases.mT).movedim(-3, -2).flatten(-2) + self.bias
        return whole


def projection(parent: Parent, index: int, role: str) -> tuple[nn.Module, slice]:
    """The module that computes keys ("k") or values ("v") of a layer, and which columns of what it gives they are.

    Raises ``UserError`` where they lie in another order than queries, keys, values.
    """
    family, shape = parent.family, parent.geometry
    name = family.tensor_name(index, f"{role}.weight").removesuffix(".weight")
    module = parent.model.get_submodule(name)
    if "qkv" not in family.projections:
        return module, slice(None)
    if family.name not in ("gpt2", "phi3"):
        raise UserError(f"low rank: keys of {family.name} are computed with its queries, head by head")
    width = shape.num_kv_heads * shape.head_dim
    start = shape.num_attention_heads * shape.head_dim + (width if role == "v" else 0)
    return module, slice(start, start + width)

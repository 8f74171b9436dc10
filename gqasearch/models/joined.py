"""A model whose every head has room for n heads: the same function, so that n heads can be joined into one.

Grouping lets a KV head of size d stand for several. A head of size n d that stands for n times as many costs the same
cache, and is never worse: grouping is the case in which every query reads its own d dimensions alone. To find such
heads, the parent is written with heads of size n d first: its own d dimensions, and zeros.

RoPE turns dimension i with i + r/2, by the frequency of i. Joined, every frequency comes n times, side by side, and a
head's own pair is the first of each n: dimension i < r/2 goes to n i, and i + r/2 to n r/2 + n i. In ``config.json``
that is longrope, whose factors divide the frequencies of a head of size n d: f = theta^(-2a / (n d)) for copy a makes
all of a pair's copies turn as the pair. Scores are divided by sqrt(n d) in place of sqrt(d), so W_q is times sqrt(n).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import JOINED, LONGROPE, Config, Family, joined_of
from gqasearch.models.layer import LayerWeights
from gqasearch.models.wide_attention import WIDE

# Found to compute the same in transformers with a head size and frequencies of their own; those of ``WIDE`` without
# RoPE have no such form there, and what is made of them is ragged.
JOINABLE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", *WIDE)
SCALED = ("linear", "llama3", "yarn")  # RoPE types whose frequencies are the same for every text


def joined_config(family: Family, config: Config, n: int) -> Config:
    """``config.json`` of the same model with heads of n times the size.

    Raises ``UserError`` for a model that has no such form in transformers, or whose RoPE has none.
    """
    geometry, architecture = family.geometry(config), config["architectures"][0]
    _require_joinable(family, config, n)
    size = n * geometry.head_dim
    if not geometry.rotary_dim:
        return {**config, "head_dim": size, JOINED: n}
    base, frequencies, attention = _rope(config, geometry.rotary_dim)
    limit = config.get("max_position_embeddings") or 2048
    factors = {name: _factors(rows, base, size, n) for name, rows in frequencies.items()}
    rope = {
        "rope_type": "longrope",
        "rope_theta": base,
        "factor": 1.0,
        "attention_factor": attention,
        "original_max_position_embeddings": _first_length(config) or limit,
        **factors,
    }
    dropped = ("rope_scaling", "rope_theta", "original_max_position_embeddings")
    kept = {name: value for name, value in config.items() if name not in dropped}
    wide = {**kept, "head_dim": size, JOINED: n, "rope_parameters": rope, "max_position_embeddings": limit}
    wide["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    if architecture == "LlamaForCausalLM" and not (config.get("attention_bias") or config.get("mlp_bias")):
        # The same network; not every engine asks a Llama for its head size.
        wide |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
        wide = {k: v for k, v in wide.items() if k not in ("attention_bias", "mlp_bias", "pretraining_tp")}
    return wide


def joined_layer(weights: LayerWeights, n: int) -> LayerWeights:
    """One layer of the same model: q, k, v (heads, n d, D), o (Hq, D, n d), zero but for the heads' own dimensions."""
    own, d = joined_places(weights.head_dim, weights.rotary_dim, n), weights.head_dim
    scale = n**0.5 if weights.score_scale is None else 1.0

    def widened(rows: Tensor | None, places: Tensor, factor: float = 1.0) -> Tensor | None:
        if rows is None:
            return None
        wide = rows.new_zeros(rows.shape[0], n * d, *rows.shape[2:])
        wide[:, places] = rows * factor
        return wide

    first = torch.arange(d)
    parts: dict[str, Any] = {
        "q": widened(weights.q, own, scale),
        "q_bias": widened(weights.q_bias, own, scale),
        "k": widened(weights.k, own),
        "k_bias": widened(weights.k_bias, own),
        "v": widened(weights.v, first),
        "v_bias": widened(weights.v_bias, first),
        "o": torch.cat([weights.o, weights.o.new_zeros(*weights.o.shape[:2], (n - 1) * d)], dim=2),
    }
    return replace(weights, **parts, rotary_dim=n * weights.rotary_dim, joined=n)


def joined_places(head_dim: int, rotary_dim: int, n: int) -> Tensor:
    """Where a head's dimensions stand among n times as many, (d,): rotated pairs first, as RoPE has them."""
    pairs = n * torch.arange(rotary_dim // 2)
    fixed = n * rotary_dim + torch.arange(head_dim - rotary_dim)
    return torch.cat([pairs, n * (rotary_dim // 2) + pairs, fixed])


@dataclass(frozen=True)
class OwnDimensions:
    """Which dimensions of its heads a layer uses: ``keys`` (s,) of those that RoPE turns, pairs as halves; ``pairs``
    (s/2,): the same as numbers of pairs; ``fixed`` (sf,): keys' that it does not turn; ``values`` (sv,).
    """

    keys: Tensor
    pairs: Tensor
    fixed: Tensor
    values: Tensor


def own_dimensions(weights: LayerWeights) -> OwnDimensions:
    """All; of heads that were given room and are not joined yet, those that they had before."""
    r, n, size = weights.rotary_dim, weights.joined, weights.v.shape[1]
    d = size // n
    if n > 1 and not weights.v[:, d:].any() and not weights.o[..., d:].any():
        own = joined_places(weights.head_dim // n, r // n, n)
        unread = torch.ones(weights.head_dim, dtype=torch.bool)
        unread[own] = False
        if not weights.k[:, unread].any() and not weights.q[:, unread].any():
            keys, fixed = own[: r // n], own[r // n :]
            return OwnDimensions(keys, keys[: len(keys) // 2], fixed, torch.arange(d))
    return OwnDimensions(torch.arange(r), torch.arange(r // 2), torch.arange(r, weights.head_dim), torch.arange(size))


def _require_joinable(family: Family, config: Config, n: int) -> None:
    architecture, geometry = config["architectures"][0], family.geometry(config)
    if joined_of(config) > 1:
        raise UserError(f"--join {n}: the heads of this model are {joined_of(config)} joined already")
    if architecture not in JOINABLE:
        raise UserError(
            f"--join {n}: {architecture} has no form with heads of another size, or none that was found to compute the "
            f"same; {', '.join(JOINABLE)} have one"
        )
    if geometry.num_kv_heads < n:
        raise UserError(f"--join {n}: this model has {geometry.num_kv_heads} KV heads, of which none can join {n}")
    if geometry.rotary_dim not in (0, geometry.head_dim):
        raise UserError(f"--join {n}: RoPE turns only a part of this model's heads, which no stock form can say")


def _rope(config: Config, rotary_dim: int) -> tuple[float, dict[str, Tensor], float]:
    """The base, the frequencies (r/2,) for short and for long texts, and what cosines and sines are multiplied by."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    given = {name: value for name, value in config.items() if name != "model_type"}
    own = AutoConfig.for_model(config["model_type"], **given)
    rope = own.rope_parameters
    kind, base = rope["rope_type"], float(rope["rope_theta"])
    if kind == "default":
        rows = base ** (-torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
        return base, {"short_factor": rows, "long_factor": rows}, 1.0
    if kind in LONGROPE:
        short, attention = ROPE_INIT_FUNCTIONS["longrope"](own)
        long, _ = ROPE_INIT_FUNCTIONS["longrope"](own, seq_len=rope["original_max_position_embeddings"] + 1)
        return base, {"short_factor": short.double(), "long_factor": long.double()}, float(attention)
    if kind not in SCALED:
        raise UserError(f"RoPE of type {kind} has frequencies that change with the text: its heads cannot be joined")
    rows, attention = ROPE_INIT_FUNCTIONS[kind](own)
    return base, {"short_factor": rows.double(), "long_factor": rows.double()}, float(attention)


def _factors(frequencies: Tensor, base: float, size: int, n: int) -> list[float]:
    """What divides the frequencies of a head of ``size`` so that each of these, (r/2,), comes n times: (n r/2,)."""
    plain = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    found: list[float] = (plain / frequencies.repeat_interleave(n)).tolist()
    return found


def _first_length(config: Config) -> int | None:
    """Up to where short texts go in a source that has longrope itself."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if rope.get("rope_type", rope.get("type")) not in LONGROPE:
        return None
    found = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    return None if found is None else int(found)

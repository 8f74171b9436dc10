"""RoPE in a GGUF file, in the words of transformers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gqasearch.errors import UserError
from gqasearch.models.gguf.architecture import head_dim_of
from gqasearch.models.gguf.keys import Keys

# What the frequencies of a Llama 3.1 or later are divided by: one list of llama.cpp's for three numbers of Meta's.
FREQS = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
FACTORS = (FREQS, LONG, SHORT)  # tensors that no parameter of the model is made of
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rope_of(keys: Keys, config: dict[str, Any], theta: float = 10000.0) -> dict[str, Any]:
    """``rope_parameters`` of ``config``: ``theta`` is the base where the file names none.

    Raises ``UserError`` for a kind that is not known.
    """
    base = {"rope_theta": keys.real("rope.freq_base", theta)}
    kind = keys.word("rope.scaling.type")
    keys.has("rope.scaling.finetuned")  # whether the model was trained with it
    if (factors := keys.factors(FREQS)) is not None:
        if kind not in (None, "none"):
            raise UserError(f"{keys.file.path} has both rope.scaling.type {kind} and a tensor {FREQS}")
        return base | _of_factors(factors, base["rope_theta"], config)
    if kind == "linear":
        return base | {"rope_type": "linear", "factor": keys.real("rope.scaling.factor")}
    if kind == "yarn":
        return base | _yarn(keys)
    if kind in (None, "none"):
        keys.real("rope.scaling.factor", 1.0)  # of no kind: llama.cpp does not scale
        return base | {"rope_type": "default"}
    raise UserError(f"{keys.file.path}: RoPE of type {kind} is not read for {config['architectures'][0]}")


def partial_rotary(keys: Keys, config: dict[str, Any]) -> float:
    """The part of a head that RoPE turns."""
    head_dim = head_dim_of(config)
    turned = keys.count("rope.dimension_count", head_dim)
    if turned > head_dim or turned % 2:
        raise UserError(f"{keys.file.path}: rope.dimension_count is {turned}, the heads' size {head_dim}")
    return turned / head_dim


def require_full_rotary(keys: Keys, config: dict[str, Any]) -> None:
    """Raise ``UserError`` where RoPE turns only a part of every head."""
    if partial_rotary(keys, config) != 1.0:
        raise UserError(
            f"{keys.file.path}: RoPE turns {keys.count('rope.dimension_count')} of {head_dim_of(config)} dimensions, "
            f"which {config['architectures'][0]} cannot say"
        )


def longrope(keys: Keys, config: dict[str, Any]) -> dict[str, Any]:
    """Phi-3's two lists of factors, for short and for long texts; empty where the file has none."""
    short, long = keys.factors(SHORT), keys.factors(LONG)
    original = keys.count("rope.scaling.original_context_length", config["max_position_embeddings"])
    given = keys.real("rope.scaling.attn_factor", 0.0)
    if short is None or long is None:
        return {}
    scale = config["max_position_embeddings"] / original
    attention = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    if given and not math.isclose(given, attention, rel_tol=1e-5):
        raise UserError(
            f"{keys.file.path}: rope.scaling.attn_factor is {given}, where {attention:g} follows from the lengths"
        )
    return {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": original,
    }


def _yarn(keys: Keys) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": keys.real("rope.scaling.factor"),
        "original_max_position_embeddings": keys.count("rope.scaling.original_context_length"),
    }
    for ours in ("beta_fast", "beta_slow"):
        if keys.has(f"rope.scaling.yarn_{ours}"):
            found[ours] = keys.real(f"rope.scaling.yarn_{ours}")
    return found


def _of_factors(factors: list[float], theta: float, config: dict[str, Any]) -> dict[str, Any]:
    """The three numbers of Llama 3 where they give these factors, as every engine knows them; else the factors."""
    pairs = head_dim_of(config) // 2
    if len(factors) != pairs:
        raise UserError(f"{FREQS} has {len(factors)} values, the heads have {pairs} pairs")
    llama3 = {"rope_type": "llama3", "factor": max(factors), **LLAMA3}
    if np.allclose(_llama3_factors(theta, pairs, max(factors)), factors, rtol=1e-5):
        return llama3
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "factor": 1.0,
        "original_max_position_embeddings": config["max_position_embeddings"],
    }


def _llama3_factors(theta: float, pairs: int, factor: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Short waves stay, long ones are divided by ``factor``, and those between by something between."""
    original = LLAMA3["original_max_position_embeddings"]
    turns = original / (2 * math.pi) * theta ** (-np.arange(pairs) / pairs)  # of a pair in the original length
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    found: np.ndarray[Any, np.dtype[np.float64]] = 1 / ((1 - share) / factor + share)
    return found

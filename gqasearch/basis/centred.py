"""Keys without what they have in common: the same model, and numbers that a rounded cache has to hold less of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.models.attention_inputs import AttentionInputs


def centred_keys(
    weights: LayerWeights, labels: Sequence[int], calls: Sequence[AttentionInputs], masks: Sequence[Tensor]
) -> tuple[LayerWeights, list[AttentionInputs]]:
    """The layer, and its ``calls``, with keys whose mean is 0 in the dimensions that RoPE leaves alone.

    The same vector added to the keys of all tokens adds one number to all scores of a query, which softmax does not
    see; here it is taken from the bias. A layer without a key bias, or with a score beside those of the tokens, stays
    as it is. ``labels`` (H,): which KV head of the converted layer a head of ``calls`` is; ``masks``: (B, T) bool of
    each call, False on padding.
    """
    if weights.k_bias is None or weights.sinks is not None or weights.norm_of_keys is not None:
        return weights, list(calls)
    first = [labels.index(group) for group in range(len(weights.k))]
    tokens = sum(int(mask.sum()) for mask in masks)
    mean = torch.zeros_like(weights.k_bias, dtype=torch.float64)  # (G, d)
    for call, mask in zip(calls, masks, strict=True):
        mean += torch.einsum("bgtd,bt->gd", call.key[:, first].double(), mask.to(call.key.device, torch.float64))
    mean /= max(tokens, 1)
    mean[:, : weights.rotary_dim] = 0
    of_heads = mean[list(labels)][:, None]  # (H, 1, d)
    centred = [replace(call, key=(call.key - of_heads).to(call.key)) for call in calls]
    return replace(weights, k_bias=(weights.k_bias - mean).to(weights.k_bias)), centred

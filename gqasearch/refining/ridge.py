"""The best W_o of a layer, by ridge regression.

After its groups are merged a layer's heads still give z (Hq dv,) per token, only not quite what W_o was
made for. With b the bias that W_o's module may have, and P = W_o as it is:

    W = argmin_W  E||r_parent - h - b - W z||^2 + ridge * mean(diag E[z z^T]) * ||W - P||^2

Solved in float64 for the change W - P, so that a layer that is right already stays what it is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gqasearch.models import LayerWeights
from gqasearch.refining.layer_site import LayerSite


def fit_outputs(site: LayerSite, weights: LayerWeights, ridge: float) -> tuple[LayerWeights, float]:
    """``weights`` (grouped) with W_o refitted, and their mean over tokens of ||r_parent - h - attention||^2.

    The error never rises: where rounding would make it, W_o is left alone.
    """
    start = weights.o.transpose(0, 1).flatten(1).double()  # (D, Hq dv), as W_o is stored
    gram, cross, energy = _moments(site, weights, start)
    penalty = (ridge * gram.diagonal().mean()).clamp_min(torch.finfo(gram.dtype).tiny)
    change = torch.linalg.solve(gram + penalty * torch.eye(len(gram)).to(gram), cross, left=False)
    gain = float(2 * (change * cross).sum() - (change @ gram * change).sum())
    if not gain > 0:
        return weights, energy
    by_head = (start + change).unflatten(1, (weights.o.shape[0], -1)).transpose(0, 1)
    return replace(weights, o=by_head.to(weights.o)), energy - gain


def _moments(site: LayerSite, weights: LayerWeights, start: Tensor) -> tuple[Tensor, Tensor, float]:
    """E[z z^T], E[e z^T] and E||e||^2 of the error e that ``start`` leaves, float64."""
    gram, cross = start.new_zeros(start.shape[1], start.shape[1]), torch.zeros_like(start)
    energy, tokens = 0.0, 0
    seen: list[Tensor] = []
    handle = site.projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        for call in site.calls:
            site.attend(weights, call)
            z = seen.pop()[call.mask].double()
            wanted = call.wanted[call.mask].double()
            if site.output_bias is not None:
                wanted = wanted - site.output_bias.double()
            left = wanted - z @ start.T
            gram += z.T @ z
            cross += left.T @ z
            energy += float(left.square().sum())
            tokens += len(z)
    finally:
        handle.remove()
    return gram / tokens, cross / tokens, energy / tokens

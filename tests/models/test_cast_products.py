"""16-bit models whose products are in float32: the same numbers to rounding, weights and copies as before."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn

from gqasearch.models import cast_products as cast
from gqasearch.models import load_model
from gqasearch.models.cast_products import CastLinear
from tests.tiny_models import save_checkpoint, tiny_model

IDS = torch.arange(24).reshape(2, 12)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_computes_the_same_to_rounding(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(tiny_model("llama"), tmp_path / "model")
    found = {}
    for slowly in (False, True):
        monkeypatch.setattr(cast, "multiplies_16_bits_slowly", lambda slowly=slowly: slowly)
        model = load_model(folder, dtype, "cpu")
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        assert all(type(layer) is (CastLinear if slowly else nn.Linear) for layer in layers)
        assert all(layer.weight.dtype == dtype for layer in layers)
        found[slowly] = model(IDS).logits
        assert found[slowly].dtype == dtype
        assert torch.equal(deepcopy(model)(IDS).logits, found[slowly])
    exact = load_model(folder, torch.float32, "cpu")
    wanted = exact(IDS).logits
    assert not any(isinstance(module, CastLinear) for module in exact.modules())
    # No further from float32 than products in 16 bits are, and as far as 16 bits are.
    off = {slowly: float((logits.float() - wanted).norm() / wanted.norm()) for slowly, logits in found.items()}
    assert 0 < off[True] < 1.5 * off[False]
    assert off[True] < 16 * torch.finfo(dtype).eps


def test_gradients_reach_weights_in_16_bits() -> None:
    layer = nn.Linear(8, 4).bfloat16()
    layer.__class__ = CastLinear
    layer(torch.ones(2, 8, dtype=torch.bfloat16)).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.bfloat16
    assert torch.equal(layer.weight.grad, torch.full((4, 8), 2.0, dtype=torch.bfloat16))

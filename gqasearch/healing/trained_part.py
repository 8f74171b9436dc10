"""Which parameters are trained: all, those of attention, or low-rank additions to them (LoRA, arXiv 2106.09685)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from gqasearch.errors import UserError
from gqasearch.heal_config import LORA_RANK, TrainedPart
from gqasearch.models import Family


def train_only(model: nn.Module, part: TrainedPart, family: Family, layers: int, rank: int | None, seed: int) -> Any:
    """The model to train, with every other parameter frozen: ``model`` itself, or peft's wrapper around it.

    Raises ``UserError`` for lora where peft is not installed.
    """
    attention = attention_modules(model, family, layers)
    if part == "lora":
        return _with_lora(model, attention, LORA_RANK if rank is None else rank, seed)
    kept = {id(parameter) for path in attention for parameter in model.get_submodule(path).parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(part == "all" or id(parameter) in kept)
    return model


def attention_modules(model: nn.Module, family: Family, layers: int) -> list[str]:
    """Module paths of the projections of attention, in all layers: q, k, v, o, as the model has them."""
    names = set(family.projections.values())
    known = dict(model.named_modules())
    paths = [f"{family.attention_path(layer)}.{name}" for layer in range(layers) for name in sorted(names)]
    return [path for path in paths if path in known]


def merged(model: Any) -> nn.Module:
    """The model of the original form: what LoRA added goes into the weights that it was added to."""
    if not hasattr(model, "merge_and_unload"):
        return model  # type: ignore[no-any-return]
    merged_model: nn.Module = model.merge_and_unload()
    return merged_model


def _with_lora(model: nn.Module, targets: list[str], rank: int, seed: int) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("--train lora needs peft: pip install 'gqasearch[lora]'") from None
    torch.manual_seed(seed)  # peft draws its first factors from torch's own generator
    transposed = any(type(model.get_submodule(path)).__name__ == "Conv1D" for path in targets)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, fan_in_fan_out=transposed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models that peft has not heard of, which is what ours are
        wrapped: Any = model
        return get_peft_model(wrapped, config)

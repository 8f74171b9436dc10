"""Load a checkpoint folder the way any user of transformers does: safetensors, no network, code only if told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from gqasearch.errors import UserError
from gqasearch.models.device import check_device
from gqasearch.models.registry import predicts_masked, read_config
from gqasearch.models.tensors import CheckpointTensors, require_finite


def load_model(directory: Path, dtype: torch.dtype, device: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model in ``directory``, in evaluation mode.

    ``trust_remote_code``: run the modelling code that lies there, for checkpoints that this program wrote, or
    where the user says so. Raises ``UserError`` for pickled, damaged, incomplete or non-finite weights.
    """
    check_device(device)
    CheckpointTensors(directory).headers  # noqa: B018 - read for its errors, which say more than those below
    auto: Any = AutoModelForMaskedLM if predicts_masked(read_config(directory)) else AutoModelForCausalLM
    try:
        model: PreTrainedModel = auto.from_pretrained(
            directory, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:
        raise UserError(f"cannot load {directory}: {error}") from error
    for name, parameter in model.named_parameters():
        require_finite(parameter, directory, name)
    torch.nn.Module.to(model, torch.device(device))  # in place; transformers' own wrapper hides the signature
    model.eval()
    return model


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``directory``; raises ``UserError`` when there is none."""
    auto: Any = AutoTokenizer
    try:
        tokenizer: PreTrainedTokenizerBase = auto.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise UserError(f"cannot load the tokenizer in {directory}: {error}") from error
    return tokenizer

"""Load a checkpoint folder the way any user of transformers does: safetensors, no network, code only if told so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from gqasearch.errors import UserError
from gqasearch.libraries import no_progress_bars
from gqasearch.models.cast_products import cast_products
from gqasearch.models.companions import has_tokenizer
from gqasearch.models.device import check_device, resolve_device
from gqasearch.models.families import known_family, objective_of, read_config
from gqasearch.models.family import Config, Objective
from gqasearch.models.modules_cache import own_modules_cache
from gqasearch.models.prediction import prediction_of
from gqasearch.models.tensors import CheckpointTensors, is_finite, require_finite
from gqasearch.models.whole import (
    Loaded,
    require_architecture,
    require_layers,
    require_plain,
    require_type,
    require_whole,
)
from gqasearch.models.wide_attention import wide_attention

TRIED_TOKENS = 4
AUTO_CLASSES: dict[Objective, Any] = {
    "next-token": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "hidden-states": AutoModel,
}
# Of an encoder without a head, what reads its first token's hidden state; many are saved without it, and nothing here
# looks at it.
POOLER = re.compile(r"(^|\.)pooler\.")
POOLED = ("bert", "roberta", "xlm-roberta", "ragged_bert", "ragged_roberta", "ragged_xlmroberta")  # model types


def auto_class(config: Config) -> Any:
    """What transformers loads a checkpoint of this ``config.json`` by."""
    return AutoModelForImageTextToText if reads_images(config) else AUTO_CLASSES[objective_of(config)]


def reads_images(config: Config) -> bool:
    """Whether a source or a converted checkpoint is more than its text model."""
    family = known_family(config)
    return "AutoModelForImageTextToText" in (config.get("auto_map") or {}) or (family is not None and family.has_images)


def load_model(directory: Path, dtype: torch.dtype, device: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model in ``directory``, in evaluation mode.

    ``trust_remote_code``: run the modelling code that lies there, for checkpoints that this program wrote, or
    where the user says so. Raises ``UserError`` for weights that are pickled, damaged, not finite, or not those of
    the model that ``config.json`` describes, and for a model that does not run.
    """
    device = resolve_device(device)
    check_device(device)
    model = from_files(CheckpointTensors(directory), dtype, trust_remote_code=trust_remote_code)
    for name, parameter in model.named_parameters():
        require_finite(parameter, directory, name)
    torch.nn.Module.to(model, torch.device(device))  # in place; transformers' own wrapper hides the signature
    model.eval()
    require_runs(model, directory, model.device)
    return model


def whole_tensors(directory: Path) -> CheckpointTensors:
    """The tensors in ``directory``, which are all that its model has, and no others; raises as ``whole_model`` does."""
    return whole_model(directory)[0]


def whole_model(directory: Path) -> tuple[CheckpointTensors, PreTrainedModel]:
    """The tensors in ``directory`` and the model that they are all of, without values.

    Found out by transformers' own loading, but only the files' headers are read. Raises ``UserError`` as
    ``load_model`` does, but for values that are not finite and for what a model computes.
    """
    tensors = CheckpointTensors(directory)
    return tensors, from_files(tensors, torch.float32, device_map="meta")


def from_files(
    tensors: CheckpointTensors,
    dtype: torch.dtype,
    *,
    device_map: str | dict[str, str] | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The model that transformers loads, held against the files and their ``config.json``.

    ``device_map``: as transformers has it. Raises ``UserError`` as ``whole_model`` does.
    """
    directory, config = tensors.directory, read_config(tensors.directory)
    tensors.headers  # noqa: B018 - read for their errors, which say more than those below
    family = known_family(config)
    if family is not None:
        require_plain(tensors)
        require_type(tensors, config)
        require_layers(tensors, family, config)
    try:
        with own_modules_cache(), wide_attention(config), no_progress_bars():
            model, info = auto_class(config).from_pretrained(
                directory,
                dtype=dtype,
                device_map=device_map,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # so that it says which they are; they are refused
                output_loading_info=True,
                **_without_pooler(tensors, config),
            )
    except Exception as error:
        raise UserError(f"cannot load {directory}: {_words(error)}") from error
    if family is not None:
        require_architecture(tensors, family, config, model)
    require_whole(tensors, model, Loaded.of(info))
    loaded: PreTrainedModel = model
    cast_products(loaded)
    return loaded


def _without_pooler(tensors: CheckpointTensors, config: Config) -> dict[str, Any]:
    """For a model that can have a pooler and whose files have none: transformers would make one of random numbers."""
    can_have = objective_of(config) == "hidden-states" and config.get("model_type") in POOLED
    return {"add_pooling_layer": False} if can_have and not any(map(POOLER.search, tensors.shard_of)) else {}


def require_runs(model: PreTrainedModel, directory: Path, device: torch.device) -> None:
    """Raise ``UserError`` for a model that does not run, or gives no numbers: said here, not in the midst of a run."""
    ids = torch.zeros((1, TRIED_TOKENS), dtype=torch.long, device=device)
    try:
        with torch.no_grad():
            found = prediction_of(model(input_ids=ids, attention_mask=torch.ones_like(ids)))
    except Exception as error:
        raise UserError(f"{directory}: the model of its config.json does not run: {_words(error)}") from error
    if not is_finite(found):
        raise UserError(f"{directory}: the model of its config.json computes NaN or infinite values in {model.dtype}")


def _words(error: Exception) -> str:
    """What an error of a library says, in one line; of code that comes with a model, what holds here."""
    if "trust_remote_code" in str(error):
        return "it needs Python code that comes with it; only evaluate runs that, with --trust-remote-code"
    return " ".join(str(error).split()) or type(error).__name__


def load_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in ``directory``; raises ``UserError`` when there is none.

    ``trust_remote_code``: see ``load_model``; the configuration that names the tokenizer may need code.
    """
    auto: Any = AutoTokenizer
    try:
        with own_modules_cache():
            tokenizer: PreTrainedTokenizerBase = auto.from_pretrained(
                directory, trust_remote_code=trust_remote_code, local_files_only=True
            )
    except Exception as error:
        raise UserError(_why_no_tokenizer(directory, error, trust_remote_code=trust_remote_code)) from error
    return tokenizer


def _why_no_tokenizer(directory: Path, error: Exception, *, trust_remote_code: bool) -> str:
    """transformers reads the model's configuration first, and takes a folder without a tokenizer for a damaged one."""
    if not has_tokenizer(directory):
        return (
            f"{directory} holds no tokenizer (tokenizer.json, or the files that its class reads); a training often "
            "saves the model alone: copy them from the model that it began with"
        )
    try:
        AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as wrong:  # noqa: BLE001 - as above
        return f"cannot load {directory}: {_words(wrong)}"
    return f"cannot load the tokenizer in {directory}: {_words(error)}"

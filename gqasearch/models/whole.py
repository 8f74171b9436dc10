"""Whether the files of a checkpoint hold the model that its config.json describes: all of it, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import PreTrainedModel

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family
from gqasearch.models.foreign import MERGE_FIRST, few
from gqasearch.models.tensors import CONVERTIBLE, CheckpointTensors, current_name

# What published checkpoints of the supported families carry beside the model: buffers that old versions stored and new
# ones compute, and BERT's heads for other tasks. What else transformers ignores, it says itself.
HARMLESS = re.compile(
    r"(^|\.)(rotary|rotary_emb)\.inv_freq$"
    r"|(^|\.)position_ids$"
    r"|(^|\.)attn\.(masked_)?bias$|\.attention\.(masked_)?bias$"
    r"|(^|\.)attn\.causal_mask$"
    r"|(^|\.)decoder\.version$"
    r"|(^|\.)pooler\.dense\.(weight|bias)$|^cls\.seq_relationship\.(weight|bias)$"
)
# Endings of names that tell what an unexpected tensor is of.
ADAPTED = re.compile(
    r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|hada_w|ia3_l)\b|(^|\.)base_model\.model\."
)
CACHE_SCALES = re.compile(r"\.((q|k|v|kv|prob|prob_output)_scale|[qkv]_proj\.output_scale|kv_cache_scale)$")
QUANTISED = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|weight_packed|weight_scale|weight_scale_inv|weight_zero_point|weight_shape|"
    r"input_scale|SCB|weight_format|weight\.absmax|weight\.quant_map|weight\.quant_state\S*|weight_blocks)$"
)
LAYER_FIELDS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True)
class Loaded:
    """What transformers said of its loading, in the model's names.

    ``mismatched``: name, stored shape, the model's shape. Tied weights that are stored once count as stored.
    """

    missing: list[str]
    unexpected: list[str]
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Loaded:
        """From ``output_loading_info``."""
        return cls(
            sorted(info["missing_keys"]),
            sorted(name for name in info["unexpected_keys"] if not HARMLESS.search(name)),
            sorted((name, tuple(stored), tuple(wanted)) for name, stored, wanted in info["mismatched_keys"]),
        )


def require_layers(tensors: CheckpointTensors, family: Family, config: Config) -> None:
    """Raise ``UserError`` where the files hold another number of layers than ``config.json`` says."""
    said = family.geometry(config).num_layers
    before, after = re.split(r"(?<=\.)\d+", family.attention_path(0), maxsplit=1)
    names = "|".join(map(re.escape, (before, *family.other_names(before))))
    pattern = re.compile(rf"({names})(\d+){re.escape(after)}\.")

    def layers_of(names: Iterable[str]) -> set[int]:
        return {int(found[2]) for name in names if (found := pattern.match(name))}

    held = layers_of(tensors.shard_of)
    if not held:
        raise UserError(
            f"{tensors.directory} has no tensor {family.attention_path(0)}..., nor those of other layers; it has "
            f"{few(sorted(tensors.shard_of))}. Save the model itself, not what it was wrapped in for training"
        )
    # Counted first: config.json may say any number.
    if len(held) != said or held != layers_of(f"{family.attention_path(layer)}." for layer in range(said)):
        field = next((name for name in LAYER_FIELDS if name in config), LAYER_FIELDS[0])
        numbers = f"{len(held)} ({min(held)} to {max(held)})"
        raise UserError(
            f"{tensors.directory}: config.json says {field} {said}, but the weights hold {numbers} layers; "
            "gqasearch converts the whole model: give the config.json that belongs to these weights"
        )


def require_plain(tensors: CheckpointTensors) -> None:
    """Raise ``UserError`` for names that only adapters, quantisers and rounded caches give."""
    for pattern, what in (
        (ADAPTED, f"holds weights of an adapter such as LoRA. {MERGE_FIRST}"),
        (CACHE_SCALES, "holds scales of an FP8 cache, which belong to the heads as they are; remove them first"),
        (QUANTISED, "is quantised; gqasearch converts unquantised models: give the one that it was made from"),
    ):
        if found := [name for name in tensors.shard_of if pattern.search(name)]:
            raise UserError(f"{tensors.directory} {what} ({few(found)})")


def require_type(tensors: CheckpointTensors, config: Config) -> None:
    """Raise ``UserError`` for no ``model_type``: transformers goes by it, and some versions guess from the path."""
    if not config.get("model_type"):
        architecture = config["architectures"][0]
        usual = getattr(transformers, architecture).config_class.model_type
        raise UserError(
            f'{tensors.directory}: config.json has no model_type, which transformers goes by; add "model_type": '
            f'"{usual}" if this is a {architecture}'
        )


def require_architecture(tensors: CheckpointTensors, family: Family, config: Config, model: PreTrainedModel) -> None:
    """Raise ``UserError`` where transformers, which goes by ``model_type``, built another model than is named."""
    made = type(model).__name__
    if made not in family.architectures:
        raise UserError(
            f"{tensors.directory}: config.json names the architecture {config['architectures'][0]}, but its model_type "
            f"{config.get('model_type')!r} makes transformers run a {made}: one of the two is wrong"
        )


def require_whole(tensors: CheckpointTensors, model: PreTrainedModel, loaded: Loaded) -> None:
    """Raise ``UserError`` unless every tensor of ``model`` comes from one of the files, and each of theirs is in it.

    Names what is missing, of another shape, stored as no plain floats, stored twice or in no such model.
    """
    where, unexpected = tensors.directory, loaded.unexpected
    if loaded.missing or unexpected:
        lists = (("it has no tensor", loaded.missing), ("no such model has", unexpected))
        said = "; ".join(f"{words} {few(names)}" for words, names in lists if names)
        raise UserError(f"{where} does not hold the {type(model).__name__} of its config.json: {said}")
    if loaded.mismatched:
        name, stored, wanted = loaded.mismatched[0]
        more = f" ({len(loaded.mismatched) - 1} more tensors do not fit)" if len(loaded.mismatched) > 1 else ""
        raise UserError(f"{where}: {name} is stored as {list(stored)}, config.json makes it {list(wanted)}{more}")
    _require_floats(tensors, model)
    _require_once(tensors, model)


def _require_floats(tensors: CheckpointTensors, model: PreTrainedModel) -> None:
    """transformers would take bytes of any dtype for the numbers that they are scaled from."""
    patterns = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()]
    for name in tensors.shard_of:
        dtype = tensors.stored(name).dtype
        if dtype not in CONVERTIBLE and not any(pattern.search(name) for pattern in (HARMLESS, *patterns)):
            raise UserError(
                f"{tensors.directory}: {name} is stored as {dtype}; gqasearch converts unquantised models "
                f"({', '.join(CONVERTIBLE)})"
            )


def _require_once(tensors: CheckpointTensors, model: PreTrainedModel) -> None:
    """transformers gives one parameter two names: with and without the model's first part, and LayerNorm's old ones."""
    stored: dict[str, str] = {}
    for name in tensors.shard_of:
        own = current_name(name).removeprefix(f"{model.base_model_prefix}.")
        if own in stored:
            raise UserError(f"{tensors.directory}: {stored[own]} and {name} are the same weight; remove one of them")
        stored[own] = name


def stored_apart(tensors: CheckpointTensors, model: PreTrainedModel) -> bool:
    """Whether ``config.json`` ties weights that are all stored, with other values: transformers 5 runs both as stored.

    ``model``: made from that ``config.json``. Where the config of a converted checkpoint said so too, other programs
    would run one of them.
    """
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    names = {current_name(name).removeprefix(f"{model.base_model_prefix}."): name for name in tensors.shard_of}
    pairs = [
        tuple(names.get(name.removeprefix(f"{model.base_model_prefix}.")) for name in pair) for pair in tied.items()
    ]
    stored = [(one, other) for one, other in pairs if one is not None and other is not None]
    return len(stored) == len(pairs) and any(tensors.differ(one, other) for one, other in stored)

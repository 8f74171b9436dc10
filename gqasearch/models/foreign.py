"""Folders that hold something else than a plain checkpoint: said before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gqasearch.errors import UserError

ADAPTER = "adapter_config.json"
LFS_WORDS = b"version https://git-lfs"
LARGEST_POINTER = 1024  # bytes, by the specification of Git LFS
MERGE_FIRST = "gqasearch converts whole models: merge it into its base model first (peft: merge_and_unload), save that"
# Weights as transformers 5 saves them from several processes, which it prefers to all other files of the folder.
DISTRIBUTED = "shard-[0-9][0-9][0-9][0-9][0-9]-model-*.safetensors"
# What tokenizers and generation are read from.
SMALL_FILES = (
    *("tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "*.model", "*.codes", "chat_template*"),
    "generation_config.json",
)
# Fields of config.json under which quantisers say what they did; the second is compressed-tensors' older one.
QUANTISED = ("quantization_config", "compression_config")


def is_lfs_pointer(path: Path) -> bool:
    """Whether Git LFS left a note in place of this file's content."""
    if path.stat().st_size > LARGEST_POINTER:
        return False
    with path.open("rb") as file:
        return file.read(len(LFS_WORDS)) == LFS_WORDS


def refuse_lfs_pointers(paths: list[Path]) -> None:
    """Raise ``UserError`` where one of these files, as far as they exist, is none."""
    pointers = [path.name for path in paths if path.is_file() and is_lfs_pointer(path)]
    if pointers:
        raise UserError(
            f"{paths[0].parent}: {few(pointers)} {'is a' if len(pointers) == 1 else 'are'} Git LFS pointer"
            f"{'' if len(pointers) == 1 else 's'}, not the content: fetch it with git lfs pull"
        )


def without_config(directory: Path) -> str:
    """What a folder without ``config.json`` is, in words."""
    if (directory / ADAPTER).is_file():
        return f"it is an adapter such as LoRA ({ADAPTER}), no model. {MERGE_FIRST}"
    return without_safetensors(directory) or "it has no config.json"


def without_safetensors(directory: Path) -> str:
    """What a folder without safetensors has in their place, in words; empty where nothing is known."""
    gguf = sorted(path.name for path in directory.glob("*.gguf"))
    if gguf:
        return f"it has only GGUF weights ({gguf[0]}); give the file itself (--model {directory / gguf[0]})"
    pickled = sorted(path.name for path in directory.glob("*.bin"))
    if pickled:
        return f"it has only pickled weights ({pickled[0]}), which are never read; gqasearch reads safetensors only"
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    if others:
        return f"it has {few(others)}, but neither a model.safetensors nor the index (model.safetensors.index.json)"
    return ""


def refuse_foreign(directory: Path, config: dict[str, Any]) -> None:
    """Raise ``UserError`` where transformers would run other weights than the folder's own, or quantised ones.

    ``config``: the folder's ``config.json``.
    """
    _refuse_quantised(directory, config)
    if (directory / ADAPTER).is_file():
        raise UserError(f"{directory} is a model with an adapter such as LoRA beside it ({ADAPTER}). {MERGE_FIRST}")
    if config.get("transformers_weights") is not None:
        raise UserError(
            f"{directory}: config.json names other weights (transformers_weights {config['transformers_weights']!r}); "
            "only model.safetensors and model.safetensors.index.json are read: rename the file, remove the field"
        )
    refuse_lfs_pointers(sorted(path for pattern in SMALL_FILES for path in directory.glob(pattern)))
    parts = sorted(path.name for path in directory.glob(DISTRIBUTED))
    if parts:
        raise UserError(
            f"{directory} was saved from several processes ({few(parts)}); save the model once more as a whole: "
            "from_pretrained, then save_pretrained without a distributed configuration"
        )


def _refuse_quantised(directory: Path, config: dict[str, Any]) -> None:
    for holder in (config, config.get("text_config")):
        for field in QUANTISED:
            if isinstance(holder, dict) and holder.get(field):
                method = holder[field].get("quant_method") if isinstance(holder[field], dict) else None
                raise UserError(
                    f"{directory} is quantised ({field} in its config.json, quant_method {method or 'not named'}); "
                    "gqasearch converts unquantised models: give the one that it was made from, quantise afterwards"
                )


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

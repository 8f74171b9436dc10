"""The contract of an architecture of llama.cpp's: its ``config.json``, and tensors as transformers has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.models.family import Config
from gqasearch.models.gguf.keys import Keys

Restore = Callable[[Tensor], Tensor]


class Architecture(ABC):
    """One value of ``general.architecture``.

    What llama.cpp's converter did to tensors is undone here. Names of tensors are those that the package gguf has for
    the architecture.
    """

    name: ClassVar[str]

    @abstractmethod
    def config(self, keys: Keys) -> Config:
        """``config.json`` but for its dtype and special tokens; raises ``UserError`` for what cannot be read."""

    def restore(self, name: str, config: Config) -> Restore | None:
        """What makes the checkpoint's tensor ``name`` of the file's; None where the two are the same."""
        return None

    def computes(self, name: str) -> bool:
        """Whether ``restore`` gives other numbers, not the same in another order."""
        return False

    def stored_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a tensor that has ``shape`` in the checkpoint, rows first."""
        return shape


def common_config(keys: Keys, architecture: str, model_type: str) -> Config:
    """Fields that nearly all architectures have, ``head_dim`` among them only where the file names it."""
    hidden, heads = keys.count("embedding_length"), keys.count("attention.head_count")
    config: Config = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": keys.count("feed_forward_length"),
        "num_hidden_layers": keys.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.count("attention.head_count_kv", heads),
        "max_position_embeddings": keys.count("context_length"),
        "vocab_size": keys.rows("token_embd.weight"),
        "tie_word_embeddings": not keys.has_tensor("output.weight"),
    }
    if heads % config["num_key_value_heads"]:
        raise UserError(f"{keys.file.path}: {config['num_key_value_heads']} KV heads do not divide {heads} query heads")
    if keys.has("attention.key_length"):
        config["head_dim"] = keys.count("attention.key_length")
        if keys.count("attention.value_length", config["head_dim"]) != config["head_dim"]:
            raise UserError(f"{keys.file.path}: keys and values of a head are of different sizes")
    elif hidden % heads:
        raise UserError(f"{keys.file.path}: a hidden size of {hidden} cannot be shared by {heads} heads")
    return config


def head_dim_of(config: Config) -> int:
    """The size of a head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rms_eps(keys: Keys) -> float:
    """What an RMSNorm adds."""
    return keys.real("attention.layer_norm_rms_epsilon")


def layer_eps(keys: Keys) -> float:
    """What a LayerNorm adds."""
    return keys.real("attention.layer_norm_epsilon")


def without_head_dim(config: Config, keys: Keys) -> Config:
    """Of an architecture whose heads are always hidden size / heads; raises ``UserError`` where the file differs."""
    kept = {name: value for name, value in config.items() if name != "head_dim"}
    if head_dim_of(kept) != head_dim_of(config):
        raise UserError(
            f"{keys.file.path}: heads of {config['head_dim']}, where {config['architectures'][0]} has only hidden size "
            f"/ heads = {head_dim_of(kept)}"
        )
    return kept

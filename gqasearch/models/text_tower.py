"""Models that read images, too: what is grouped is the text model in them, their text tower.

A text tower is one of the families that this package knows. It lies in the model under other names, and its fields of
``config.json`` under ``text_config``; of everything else in the model nothing is read and nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from transformers import CONFIG_MAPPING

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family, TensorReader, text_of
from gqasearch.models.layer import HeadGeometry

# Where files of various versions have the tower's tensors, besides where it lies in the model.
IN_FILES = ("language_model.model.", "language_model.", "text_model.", "model.")
# Fields that published files leave to transformers' defaults, and that are read here.
LEFT_OUT = (
    *("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "max_position_embeddings", "rms_norm_eps", "attention_bias", "sliding_window", "layer_types"),
    *("query_pre_attn_scalar", "rope_parameters", "cross_attention_layers"),
)


class TextTower(Family):
    """Goes before the family that the tower is of.

    ``tower``: where it lies in the model; a text model by itself has "model." there. ``text_types``: its
    ``model_type``; where a model takes towers of several families, ``others`` has those of other types.
    """

    tower: ClassVar[str] = "model.language_model."
    text_types: ClassVar[tuple[str, ...]]
    others: ClassVar[tuple[Family, ...]] = ()
    has_images: ClassVar[bool] = True

    def reading(self, config: Config) -> Family:
        """The family for this tower; raises ``UserError`` for one that is not known."""
        found = text_of(config).get("model_type")
        known = {kind: family for family in (self, *self.others) for kind in getattr(family, "text_types", ())}
        if found not in known:
            raise UserError(
                f"the text tower of this {self.architectures[0]} is a {found}; supported there: {', '.join(known)}"
            )
        return known[found]

    def attention_path(self, layer: int) -> str:
        return super().attention_path(layer).replace("model.", self.tower, 1)

    def other_names(self, name: str) -> tuple[str, ...]:
        return tuple(name.replace(self.tower, prefix, 1) for prefix in IN_FILES)

    def completed(self, config: Config) -> Config:
        """With the text tower's fields under ``text_config``, also where they lie beside those of the whole model, and
        with those that transformers has defaults for.

        Raises ``UserError`` for a ``config.json`` that transformers cannot read.
        """
        try:
            made = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
            text = made.get_text_config().to_dict()
        except Exception as error:  # whatever transformers makes of it
            words = " ".join(str(error).split())
            raise UserError(f"config.json of this {self.architectures[0]} cannot be read: {words}") from error
        defaults = {name: text[name] for name in LEFT_OUT if text.get(name) is not None}
        if isinstance(config.get("text_config"), dict):
            return {**config, "text_config": {**defaults, **config["text_config"]}}
        # The oldest files of Qwen2-VL and Qwen2.5-VL.
        of_whole = {
            "architectures",
            "model_type",
            "dtype",
            "torch_dtype",
            "transformers_version",
            "tie_word_embeddings",
        }
        flat = {name: value for name, value in config.items() if name not in of_whole and _is_of(name, text)}
        rest = {name: value for name, value in config.items() if name not in flat}
        return {**rest, "text_config": {**defaults, **flat, "model_type": text["model_type"]}}

    def geometry(self, config: Config) -> HeadGeometry:
        return super().geometry(text_of(config))

    def bias_roles(self, config: Config) -> tuple[str, ...]:
        return super().bias_roles(text_of(config))

    def layer_rotary_dim(self, layer: int, config: Config) -> int:
        return super().layer_rotary_dim(layer, text_of(config))

    def context_length(self, config: Config) -> int | None:
        return super().context_length(text_of(config))

    def short_length(self, config: Config) -> int | None:
        return super().short_length(text_of(config))

    def vocabulary(self, config: Config) -> int | None:
        return super().vocabulary(text_of(config))

    def score_scale(self, layer: int, config: Config) -> float | None:
        return super().score_scale(layer, text_of(config))

    def stream_gain(self, read: TensorReader, layer: int, config: Config, attended: Tensor) -> Tensor | None:
        def read_in_tower(name: str) -> Tensor:
            return read(name.replace("model.", self.tower, 1))

        return super().stream_gain(read_in_tower, layer, text_of(config), attended)

    def takes_query_heads(self, config: Config, query_heads: int) -> bool:
        return super().takes_query_heads(text_of(config), query_heads)

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        return super().grouped_config(text_of(config), query_heads, kv_heads, head_dim)


def _is_of(name: str, text: Mapping[str, Any]) -> bool:
    """Whether a field is one of the text tower's; RoPE has other names today."""
    return name in text or name in ("rope_theta", "rope_scaling")

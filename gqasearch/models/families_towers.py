"""Models with a text tower, by their architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family, refuse_padding, text_of
from gqasearch.models.gemma3 import Gemma3
from gqasearch.models.layer import HeadGeometry
from gqasearch.models.llama import Llama
from gqasearch.models.mistral import Mistral
from gqasearch.models.qwen2 import Qwen2
from gqasearch.models.qwen3 import Qwen3
from gqasearch.models.text_tower import TextTower


@dataclass(frozen=True)
class Gemma3Tower(TextTower, Gemma3):
    """Gemma 3 with images (arXiv 2503.19786)."""

    name: ClassVar[str] = "gemma3"
    architectures: ClassVar[tuple[str, ...]] = ("Gemma3ForConditionalGeneration",)
    text_types: ClassVar[tuple[str, ...]] = ("gemma3_text",)


@dataclass(frozen=True)
class Qwen2Tower(TextTower, Qwen2):
    """Qwen2-VL and Qwen2.5-VL (arXiv 2409.12191, 2502.13923).

    RoPE turns a frequency pair by a token's place in time, height or width: by one angle still, so pairs merge as
    everywhere. The size of a head is always hidden size / heads.
    """

    name: ClassVar[str] = "qwen2_vl"
    architectures: ClassVar[tuple[str, ...]] = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")
    default_rope_theta: ClassVar[float] = 1_000_000.0
    text_types: ClassVar[tuple[str, ...]] = ("qwen2_vl_text", "qwen2_5_vl_text")

    def grouped_config(self, config: Mapping[str, Any], query_heads: int, kv_heads: int, head_dim: int) -> Config:
        refuse_padding(config.get("text_config", config), query_heads, "Qwen2-VL")
        return super().grouped_config(config, query_heads, kv_heads, head_dim)


@dataclass(frozen=True)
class Qwen3Tower(TextTower, Qwen3):
    """Qwen3-VL (arXiv 2511.21631)."""

    name: ClassVar[str] = "qwen3_vl"
    architectures: ClassVar[tuple[str, ...]] = ("Qwen3VLForConditionalGeneration",)
    default_rope_theta: ClassVar[float] = 500_000.0
    text_types: ClassVar[tuple[str, ...]] = ("qwen3_vl_text",)


class Llava(TextTower):
    """LLaVA (arXiv 2304.08485, 2310.03744) and what is built like it: Mistral Small 3.1 and later, InternVL."""

    name: ClassVar[str] = "llava"
    architectures: ClassVar[tuple[str, ...]] = (
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "LlavaOnevisionForConditionalGeneration",
        "Mistral3ForConditionalGeneration",
        "InternVLForConditionalGeneration",
    )


@dataclass(frozen=True)
class LlavaMistral(Llava, Mistral):
    """LLaVA around a Mistral."""

    text_types: ClassVar[tuple[str, ...]] = ("mistral",)


@dataclass(frozen=True)
class LlavaQwen2(Llava, Qwen2):
    """LLaVA around a Qwen2."""

    text_types: ClassVar[tuple[str, ...]] = ("qwen2",)


@dataclass(frozen=True)
class LlavaQwen3(Llava, Qwen3):
    """LLaVA around a Qwen3."""

    text_types: ClassVar[tuple[str, ...]] = ("qwen3",)


@dataclass(frozen=True)
class LlavaTower(Llava, Llama):
    """LLaVA (arXiv 2304.08485, 2310.03744) and its kin, around a Llama, a Mistral, a Qwen2 or a Qwen3."""

    text_types: ClassVar[tuple[str, ...]] = ("llama",)
    others: ClassVar[tuple[Family, ...]] = (LlavaMistral(), LlavaQwen2(), LlavaQwen3())


class Idefics3(TextTower):
    """Idefics 3 and SmolVLM (arXiv 2408.12637, 2504.05299)."""

    name: ClassVar[str] = "idefics3"
    architectures: ClassVar[tuple[str, ...]] = (
        "Idefics3ForConditionalGeneration",
        "SmolVLMForConditionalGeneration",
    )
    tower: ClassVar[str] = "model.text_model."


@dataclass(frozen=True)
class Idefics3Mistral(Idefics3, Mistral):
    """Idefics 3 around a Mistral, as padded ones are written."""

    text_types: ClassVar[tuple[str, ...]] = ("mistral",)


@dataclass(frozen=True)
class Idefics3Tower(Idefics3, Llama):
    """Idefics 3 and SmolVLM (arXiv 2408.12637, 2504.05299), around a Llama."""

    text_types: ClassVar[tuple[str, ...]] = ("llama",)
    others: ClassVar[tuple[Family, ...]] = (Idefics3Mistral(),)


@dataclass(frozen=True)
class Mllama(TextTower, Llama):
    """Llama 3.2 Vision (arXiv 2407.21783): a Llama with layers in between that attend to an image alone.

    Those stay as they are, and on text they do nothing. Layers are counted without them; ``of_image``: where they stand
    in the model. transformers has one number of KV heads for both kinds.
    """

    name: ClassVar[str] = "mllama"
    architectures: ClassVar[tuple[str, ...]] = ("MllamaForConditionalGeneration",)
    text_types: ClassVar[tuple[str, ...]] = ("mllama_text_model",)
    has_grouped_form: ClassVar[bool] = False
    no_grouped_form: ClassVar[str] = "has one number of KV heads for layers that read text and layers that read images"
    of_image: tuple[int, ...] = ()

    def reading(self, config: Config) -> Family:
        super().reading(config)
        return replace(self, of_image=_of_image(config))

    def attention_path(self, layer: int) -> str:
        for place in self.of_image:
            layer += place <= layer
        return super().attention_path(layer)

    def geometry(self, config: Config) -> HeadGeometry:
        shape = super().geometry(config)
        return replace(
            shape, num_layers=shape.num_layers - sum(place < shape.num_layers for place in _of_image(config))
        )


def _of_image(config: Config) -> tuple[int, ...]:
    given = text_of(config).get("cross_attention_layers")
    if not isinstance(given, list) or not all(type(place) is int for place in given):
        raise UserError(f"config.json of this mllama model: cross_attention_layers must list layers, got {given!r}")
    return tuple(sorted(given))


TOWERS: tuple[Family, ...] = (Gemma3Tower(), Qwen2Tower(), Qwen3Tower(), LlavaTower(), Idefics3Tower(), Mllama())

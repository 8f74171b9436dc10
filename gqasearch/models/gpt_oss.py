"""gpt-oss (arXiv 2508.10925), in bfloat16: its MXFP4 files are quantised, and refused as such."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from gqasearch.models.described import Described
from gqasearch.models.family import Config, TensorReader
from gqasearch.models.layer import HeadGeometry, LayerWeights

SINKS = "sinks"


@dataclass(frozen=True, kw_only=True)
class GptOss(Described):
    """Every query head has a sink: a score that takes a share of the attention and reads nothing."""

    def tensor_name(self, layer: int, role: str) -> str:
        return f"{self.attention_path(layer)}.{SINKS}" if role == SINKS else super().tensor_name(layer, role)

    def layer_tensors(self, layer: int, config: Config) -> dict[str, str]:
        return {**super().layer_tensors(layer, config), SINKS: self.tensor_name(layer, SINKS)}

    def read_layer(self, read: TensorReader, layer: int, config: Config) -> LayerWeights:
        return replace(super().read_layer(read, layer, config), sinks=read(self.tensor_name(layer, SINKS)))

    def split_heads(self, got: Mapping[str, Tensor], shape: HeadGeometry) -> dict[str, Tensor]:
        return super().split_heads({role: tensor for role, tensor in got.items() if role != SINKS}, shape)

    def join_heads(self, weights: LayerWeights) -> dict[str, Tensor]:
        if weights.sinks is None:
            raise ValueError("a layer of gpt-oss has sinks")
        return {**super().join_heads(weights), SINKS: weights.sinks}

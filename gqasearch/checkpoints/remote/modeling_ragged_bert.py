"""BERT-like encoders in which heads share keys and values: every layer its own KV heads, every group its own size.

Transformers models of their own (load them with ``trust_remote_code=True``): a stock BERT, RoBERTa, XLM-RoBERTa,
ELECTRA or DistilBERT but for the attention. Written by gqasearch; needs torch and transformers 5, nothing else.

``config.kv_group_sizes[l]`` lists the query heads of every KV head of layer ``l``. The layer holds weights for its
real heads only, query heads in the order of their groups, and computes its own keys and values, no more. An encoder
caches nothing, so just before the attention kernel, and nowhere else, every query head gets a copy of its group's:

    groups of 3 and 1       q0 q1 q2 q3
                            k0 k0 k0 k1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraModel,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertSelfAttention, eager_attention_forward
from transformers.models.distilbert.modeling_distilbert import DistilBertSelfAttention
from transformers.models.electra.modeling_electra import ElectraSelfAttention
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaSelfAttention


def check_groups(config: Any) -> None:
    """Fill in or check the groups of every layer; raises ``ValueError`` that names the layer.

    Without groups they are those of a stock model: every query head has a KV head of its own.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if config.kv_group_sizes is None and config.num_key_value_heads_per_layer is None:
        config.kv_group_sizes = [[1] * heads for _ in range(layers)]
        config.num_key_value_heads_per_layer = [heads] * layers
    for name in ("kv_group_sizes", "num_key_value_heads_per_layer"):
        given = getattr(config, name)
        if not isinstance(given, (list, tuple)) or len(given) != layers:
            raise ValueError(f"{name} must list one entry for each of the {layers} layers, got {given!r}")
    for layer, (sizes, count) in enumerate(
        zip(config.kv_group_sizes, config.num_key_value_heads_per_layer, strict=True)
    ):
        if not isinstance(sizes, (list, tuple)) or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"kv_group_sizes[{layer}] must list whole numbers from 1, got {sizes!r}")
        if sum(sizes) != heads:
            raise ValueError(f"kv_group_sizes[{layer}] must add up to {heads} attention heads, got {sizes!r}")
        if count != len(sizes):
            raise ValueError(f"num_key_value_heads_per_layer[{layer}] is {count}, kv_group_sizes has {len(sizes)}")


@dataclass(kw_only=True)
class RaggedGroups:
    """Goes before a stock config class: query heads of every KV head, by layer, and the numbers of KV heads."""

    num_key_value_heads_per_layer: list[int] | None = None
    kv_group_sizes: list[list[int]] | None = None
    head_dim: int | None = None  # None: hidden size / attention heads

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        if getattr(self, "is_decoder", False):
            raise ValueError("is_decoder must be false: these models are encoders")
        check_groups(self)


class RaggedBertConfig(RaggedGroups, BertConfig):
    """A BERT's, and the groups."""

    model_type = "ragged_bert"


class RaggedRobertaConfig(RaggedGroups, RobertaConfig):
    """A RoBERTa's, and the groups."""

    model_type = "ragged_roberta"


class RaggedXLMRobertaConfig(RaggedGroups, XLMRobertaConfig):
    """An XLM-RoBERTa's, and the groups."""

    model_type = "ragged_xlmroberta"


class RaggedElectraConfig(RaggedGroups, ElectraConfig):
    """An ELECTRA's, and the groups."""

    model_type = "ragged_electra"


class RaggedDistilBertConfig(RaggedGroups, DistilBertConfig):
    """A DistilBERT's, and the groups."""

    model_type = "ragged_distilbert"


class RaggedAttention(nn.Module):
    """Goes before a stock self-attention class, whose settings it keeps; k and v are narrower."""

    names: ClassVar[tuple[str, str, str]] = ("query", "key", "value")
    config: Any
    dropout: nn.Dropout
    attention_head_size: int
    scaling: float

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__(config)
        self.group_sizes: Sequence[int] = self.config.kv_group_sizes[layer_idx]
        size = self.attention_head_size = self.config.head_dim or self.attention_head_size
        self.scaling = size**-0.5
        groups = len(self.group_sizes)
        for name, heads in zip(self.names, (config.num_attention_heads, groups, groups), strict=True):
            setattr(self, name, nn.Linear(config.hidden_size, heads * size))

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, past_key_values: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """As the stock attention: (B, T, D) -> (B, T, Hq * d), and the maps (B, Hq, T, T) where there are any."""
        query, key, value = (
            getattr(self, name)(hidden_states).unflatten(-1, (-1, self.attention_head_size)).transpose(1, 2)
            for name in self.names
        )
        kernel = self.config._attn_implementation  # noqa: SLF001 - as stock attention does
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(kernel, eager_attention_forward)
        out, maps = attend(
            self,
            query,
            self.for_queries(key),
            self.for_queries(value),
            attention_mask,
            dropout=self.dropout.p if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return out.flatten(2), maps

    def for_queries(self, heads: Tensor) -> Tensor:
        """Every query head's copy of its group's, (B, G, T, d) -> (B, Hq, T, d)."""
        parts = zip(heads.split(1, dim=1), self.group_sizes, strict=True)
        return torch.cat([head.expand(-1, size, -1, -1) for head, size in parts], dim=1)


def output_of(attention: RaggedAttention) -> nn.Linear:
    """W_o of as many heads as there are queries."""
    config = attention.config
    return nn.Linear(config.num_attention_heads * attention.attention_head_size, config.hidden_size)


# What stock attention is called with and gives is not what it says, hence the ignored types.
class RaggedBertAttention(RaggedAttention, BertSelfAttention):  # type: ignore[misc]
    """BERT's."""


class RaggedRobertaAttention(RaggedAttention, RobertaSelfAttention):  # type: ignore[misc]
    """RoBERTa's."""


class RaggedXLMRobertaAttention(RaggedAttention, XLMRobertaSelfAttention):  # type: ignore[misc]
    """XLM-RoBERTa's."""


class RaggedElectraAttention(RaggedAttention, ElectraSelfAttention):  # type: ignore[misc]
    """ELECTRA's."""


class RaggedDistilBertAttention(RaggedAttention, DistilBertSelfAttention):
    """DistilBERT's, which has W_o inside."""

    names = ("q_lin", "k_lin", "v_lin")

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.out_lin = output_of(self)

    def forward(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """As the stock attention: (B, T, D) -> (B, T, D), and the maps (B, Hq, T, T) where there are any."""
        out, maps = super().forward(*args, **kwargs)
        return self.out_lin(out), maps


class RaggedModel(PreTrainedModel):
    """Goes before a stock model class: a stock model, then every layer's attention is replaced."""

    attention_class: type[RaggedAttention]

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.share_heads(config)
        self.post_init()  # type: ignore[no-untyped-call]  # once more, for the new weights

    def share_heads(self, config: PreTrainedConfig) -> None:
        """Replace the attention of every layer."""
        base: Any = self.base_model
        for index, layer in enumerate(base.encoder.layer):
            layer.attention.self = self.attention_class(config, index)
            layer.attention.output.dense = output_of(layer.attention.self)


class RaggedBert(RaggedModel):
    """What BERT's two classes have in common."""

    config_class = RaggedBertConfig
    attention_class = RaggedBertAttention


class RaggedRoberta(RaggedModel):
    """What RoBERTa's two classes have in common."""

    config_class = RaggedRobertaConfig
    attention_class = RaggedRobertaAttention


class RaggedXLMRoberta(RaggedModel):
    """What XLM-RoBERTa's two classes have in common."""

    config_class = RaggedXLMRobertaConfig
    attention_class = RaggedXLMRobertaAttention


class RaggedElectra(RaggedModel):
    """What ELECTRA's two classes have in common."""

    config_class = RaggedElectraConfig
    attention_class = RaggedElectraAttention


class RaggedDistilBert(RaggedModel):
    """What DistilBERT's two classes have in common."""

    config_class = RaggedDistilBertConfig
    attention_class = RaggedDistilBertAttention

    def share_heads(self, config: PreTrainedConfig) -> None:
        """Replace the attention of every layer."""
        base: Any = self.base_model
        for index, layer in enumerate(base.transformer.layer):
            layer.attention = self.attention_class(config, index)


class RaggedBertModel(RaggedBert, BertModel):
    """BERT with ragged groups, hidden states alone."""


class RaggedBertForMaskedLM(RaggedBert, BertForMaskedLM):
    """BERT with ragged groups."""


class RaggedRobertaModel(RaggedRoberta, RobertaModel):
    """RoBERTa with ragged groups, hidden states alone."""


class RaggedRobertaForMaskedLM(RaggedRoberta, RobertaForMaskedLM):
    """RoBERTa with ragged groups."""


class RaggedXLMRobertaModel(RaggedXLMRoberta, XLMRobertaModel):
    """XLM-RoBERTa with ragged groups, hidden states alone."""


class RaggedXLMRobertaForMaskedLM(RaggedXLMRoberta, XLMRobertaForMaskedLM):
    """XLM-RoBERTa with ragged groups."""


class RaggedElectraModel(RaggedElectra, ElectraModel):
    """ELECTRA with ragged groups, hidden states alone."""


class RaggedElectraForMaskedLM(RaggedElectra, ElectraForMaskedLM):
    """ELECTRA's generator with ragged groups."""


class RaggedDistilBertModel(RaggedDistilBert, DistilBertModel):
    """DistilBERT with ragged groups, hidden states alone."""


class RaggedDistilBertForMaskedLM(RaggedDistilBert, DistilBertForMaskedLM):
    """DistilBERT with ragged groups."""

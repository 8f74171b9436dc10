"""Attention of transformers' models that have no head size of their own, for heads that were given room.

OPT, GPT-2 and encoders like BERT divide the hidden size by the number of heads. Of a checkpoint whose ``config.json``
names another size (``gqasearch.models.joined``) transformers makes the same model with attention of that size within
``wide_attention``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.models.bert import modeling_bert
from transformers.models.distilbert import modeling_distilbert
from transformers.models.electra import modeling_electra
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.opt import modeling_opt
from transformers.models.roberta import modeling_roberta
from transformers.models.xlm_roberta import modeling_xlm_roberta
from transformers.pytorch_utils import Conv1D

from gqasearch.models.family import Config, joined_of


class WideGPT2Attention(modeling_gpt2.GPT2Attention):
    """GPT-2's, with heads of ``config.head_dim``."""

    def __init__(self, config: Any, **named: Any) -> None:
        super().__init__(config, **named)  # type: ignore[no-untyped-call]
        self.head_dim = config.head_dim
        self.split_size = self.num_heads * self.head_dim
        if self.scale_attn_weights and not self.scale_attn_by_inverse_layer_idx:  # else as before: GPT2.score_scale
            self.scaling = self.head_dim**-0.5
        self.c_attn = Conv1D(3 * self.split_size, self.embed_dim)
        self.c_proj = Conv1D(self.embed_dim, self.split_size)


class WideOPTAttention(modeling_opt.OPTAttention):
    """OPT's, with heads of ``config.head_dim``."""

    def __init__(self, config: Any, **named: Any) -> None:
        super().__init__(config, **named)
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        width = self.num_heads * self.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(self.embed_dim, width, bias=self.enable_bias))
        self.out_proj = nn.Linear(width, self.embed_dim, bias=self.enable_bias)


def wide_encoder(attention: type[nn.Module], output: str, *names: str) -> type[nn.Module]:
    """Attention of an encoder with heads of ``config.head_dim``; ``names`` of W_q, W_k and W_v, ``output`` of W_o."""

    class WideEncoderAttention(attention):  # type: ignore[misc, valid-type]
        def __init__(self, config: Any, **named: Any) -> None:
            super().__init__(config, **named)
            own: Any = getattr(self, "self", self)
            width = config.num_attention_heads * config.head_dim
            own.attention_head_size, own.scaling = config.head_dim, config.head_dim**-0.5
            for name in names:
                setattr(own, name, nn.Linear(config.hidden_size, width))
            self.set_submodule(output, nn.Linear(width, config.hidden_size))

    return WideEncoderAttention


def _like_bert(module: Any, name: str) -> tuple[Any, str, type[nn.Module]]:
    return module, name, wide_encoder(getattr(module, name), "output.dense", "query", "key", "value")


DISTILBERT = "DistilBertSelfAttention"
ENCODERS: dict[str, tuple[Any, str, type[nn.Module]]] = {
    "Bert": _like_bert(modeling_bert, "BertAttention"),
    "Roberta": _like_bert(modeling_roberta, "RobertaAttention"),
    "XLMRoberta": _like_bert(modeling_xlm_roberta, "XLMRobertaAttention"),
    "Electra": _like_bert(modeling_electra, "ElectraAttention"),
    "DistilBert": (
        modeling_distilbert,
        DISTILBERT,
        wide_encoder(getattr(modeling_distilbert, DISTILBERT), "out_lin", "q_lin", "k_lin", "v_lin"),
    ),
}

# Architecture -> where transformers looks its attention up, under which name, and what stands in for it.
WIDE: dict[str, tuple[Any, str, type[nn.Module]]] = {
    "GPT2LMHeadModel": (modeling_gpt2, "GPT2Attention", WideGPT2Attention),
    "OPTForCausalLM": (modeling_opt, "OPTAttention", WideOPTAttention),
    **{f"{name}{form}": found for name, found in ENCODERS.items() for form in ("Model", "ForMaskedLM")},
    "BertForPreTraining": ENCODERS["Bert"],
}


@contextmanager
def wide_attention(config: Config) -> Iterator[None]:
    """Within the block transformers makes the model of this ``config.json`` with heads of the size that it names."""
    architecture = next(iter(config.get("architectures") or ()), "")
    if joined_of(config) == 1 or architecture not in WIDE:
        yield
        return
    module, name, wide = WIDE[architecture]
    before = getattr(module, name)
    setattr(module, name, wide)
    try:
        yield
    finally:
        setattr(module, name, before)

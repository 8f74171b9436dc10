"""OpenELM without norms on queries and keys: a Llama whose layers differ in their numbers of query and KV heads.

MLX-LM has this model and reads the checkpoint by itself. transformers does not: it loads it with this file
(``trust_remote_code=True``). Written by gqasearch; needs torch and transformers 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, MistralConfig
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mistral.modeling_mistral import (
    MistralPreTrainedModel,
    MistralRMSNorm,
    MistralRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs


class OpenELMConfig(MistralConfig):
    """A Mistral's fields for transformers, OpenELM's own for MLX-LM; both read the lists of heads, (layers,)."""

    model_type = "openelm"
    sliding_window: int | None = None
    num_query_heads: list[int] | None = None
    num_kv_heads: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        layers = self.num_hidden_layers
        for name, default in (
            ("num_query_heads", self.num_attention_heads),
            ("num_kv_heads", self.num_key_value_heads),
        ):
            counts: Any = getattr(self, name)
            if counts is None:
                counts = [default] * layers
                setattr(self, name, counts)
            if not isinstance(counts, (list, tuple)) or len(counts) != layers:
                raise ValueError(f"{name} must list one number for each of the {layers} layers, got {counts!r}")
        for layer, (queries, heads) in enumerate(zip(self.num_query_heads or [], self.num_kv_heads or [], strict=True)):
            if type(heads) is not int or heads < 1 or queries % heads:
                raise ValueError(f"num_kv_heads[{layer}] must divide num_query_heads[{layer}]={queries}, got {heads!r}")


class OpenELMAttention(nn.Module):
    """One projection for queries, keys and values, their heads in this order."""

    is_causal = True

    def __init__(self, config: OpenELMConfig, layer_idx: int) -> None:
        super().__init__()
        queries, heads = (config.num_query_heads or [])[layer_idx], (config.num_kv_heads or [])[layer_idx]
        self.config, self.layer_idx, self.head_dim = config, layer_idx, int(config.head_dim or 0)
        self.sizes, self.num_key_value_groups = [queries, heads, heads], queries // heads
        self.qkv_proj = nn.Linear(config.hidden_size, sum(self.sizes) * self.head_dim, bias=False)
        self.out_proj = nn.Linear(queries * self.head_dim, config.hidden_size, bias=False)

    def forward(
        self, hidden: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        heads = self.qkv_proj(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        queries, keys, values = heads.split(self.sizes, dim=1)
        queries, keys = apply_rotary_pos_emb(queries, keys, *turn)
        if cache is not None:
            keys, values = cache.update(keys, values, self.layer_idx)
        kind = self.config._attn_implementation  # noqa: SLF001 - as every model of transformers reads it
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(kind, eager_attention_forward)
        attended, weights = attend(
            self, queries, keys, values, mask, dropout=0.0, scaling=self.head_dim**-0.5, **options
        )
        return self.out_proj(attended.flatten(2)), weights


class OpenELMFeedForward(nn.Module):
    """Gate and input in one projection."""

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__()
        self.proj_1 = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.proj_2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.proj_1(hidden).chunk(2, dim=-1)
        out: Tensor = self.proj_2(functional.silu(gate) * up)
        return out


class OpenELMLayer(GradientCheckpointingLayer):
    """A Llama's layer under OpenELM's names."""

    def __init__(self, config: OpenELMConfig, layer_idx: int) -> None:
        super().__init__()
        self.attn, self.ffn = OpenELMAttention(config, layer_idx), OpenELMFeedForward(config)
        self.attn_norm = MistralRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn_norm = MistralRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    @property
    def self_attn(self) -> nn.Module:
        """As in a Llama, for tools that look at layers from outside."""
        return self.attn

    def forward(
        self, hidden: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: Any, **more: Any
    ) -> Tensor:
        hidden = hidden + self.attn(self.attn_norm(hidden), turn, mask, cache, **more)[0]
        out: Tensor = hidden + self.ffn(self.ffn_norm(hidden))
        return out


class OpenELMPreTrainedModel(MistralPreTrainedModel):
    """What transformers asks of both classes below."""

    config_class = OpenELMConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["OpenELMLayer"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": OpenELMLayer, "attentions": OpenELMAttention}  # noqa: RUF012


class OpenELMModel(OpenELMPreTrainedModel):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__(config)
        self.token_embeddings: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([OpenELMLayer(config, layer) for layer in range(config.num_hidden_layers)])
        self.norm = MistralRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = MistralRotaryEmbedding(config=config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.token_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.token_embeddings = value

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPast:
        hidden = self.token_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if (self.config.use_cache if use_cache is None else use_cache) and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(seen, seen + hidden.shape[1], device=hidden.device)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        turn = self.rotary_emb(hidden, position_ids=position_ids)
        for layer in self.layers:
            hidden = layer(hidden, turn, mask, past_key_values, position_ids=position_ids, **options)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden), past_key_values=past_key_values)


class OpenELMForCausalLM(OpenELMPreTrainedModel, GenerationMixin):
    """With an output head, which may be the embeddings."""

    _tied_weights_keys = {"lm_head.weight": "transformer.token_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: OpenELMConfig) -> None:
        super().__init__(config)
        self.transformer = OpenELMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def model(self) -> nn.Module:
        """As in a Llama, for tools that look at layers from outside."""
        return self.transformer

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self, input_ids: Tensor | None = None, labels: Tensor | None = None, logits_to_keep: int = 0, **options: Any
    ) -> CausalLMOutputWithPast:
        out = self.transformer(input_ids=input_ids, **options)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

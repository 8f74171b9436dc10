"""Gemma 1 to 3 in GGUF files, text only: norms' weights are there what they multiply by, in transformers 1 less."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gqasearch.models.family import Config
from gqasearch.models.gguf.architecture import Architecture, Restore, common_config, head_dim_of, rms_eps
from gqasearch.models.gguf.keys import Keys
from gqasearch.models.gguf.rope import require_full_rotary, rope_of

# Layers of the 27 B models, whose scores alone are divided by the root of hidden size / heads.
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}


class Gemma(Architecture):
    """Gemma 1."""

    name: ClassVar[str] = "gemma"

    def restore(self, name: str, config: Config) -> Restore | None:
        return _less_one if self.computes(name) else None

    def computes(self, name: str) -> bool:
        return name.endswith("norm.weight")

    def config(self, keys: Keys) -> Config:
        config = self._config(keys, "GemmaForCausalLM", "gemma")
        return config | {"rope_parameters": rope_of(keys, config)}

    def _config(self, keys: Keys, architecture: str, model_type: str) -> Config:
        config = common_config(keys, architecture, model_type)
        require_full_rotary(keys, config)
        return config | {
            "head_dim": head_dim_of(config),
            "rms_norm_eps": rms_eps(keys),
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
        }

    def _scores_divided_by(self, config: Config) -> int:
        """The number whose root scores are divided by."""
        if config["num_hidden_layers"] == LAYERS_OF_27B[self.name]:
            return int(config["hidden_size"] // config["num_attention_heads"])
        return head_dim_of(config)


class Gemma2(Gemma):
    """Every other layer, from the first, sees a window; scores and logits are capped."""

    name: ClassVar[str] = "gemma2"

    def config(self, keys: Keys) -> Config:
        config = self._config(keys, "Gemma2ForCausalLM", "gemma2")
        return config | {
            "rope_parameters": rope_of(keys, config),
            "query_pre_attn_scalar": self._scores_divided_by(config),
            "attn_logit_softcapping": keys.real("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": keys.real("final_logit_softcapping", 30.0),
            "sliding_window": keys.count("attention.sliding_window", 4096),
            "layer_types": _windows(config, 2),
        }


class Gemma3(Gemma):
    """Five of six layers see a window, with another RoPE; norms on q and k."""

    name: ClassVar[str] = "gemma3"

    def config(self, keys: Keys) -> Config:
        config = self._config(keys, "Gemma3ForCausalLM", "gemma3_text")
        window = keys.count("attention.sliding_window", 0, least=0)
        local = {"rope_type": "default", "rope_theta": keys.real("rope.freq_base_swa", 10000.0)}
        rope = {"full_attention": rope_of(keys, config, 1_000_000.0), "sliding_attention": local}
        return config | {
            "rope_parameters": rope,
            "query_pre_attn_scalar": self._scores_divided_by(config),
            "attn_logit_softcapping": None,
            "final_logit_softcapping": keys.real("final_logit_softcapping", 0.0) or None,
            "sliding_window": window or 4096,
            "layer_types": _windows(config, 6 if window else 1),
        }


def _windows(config: Config, period: int) -> list[str]:
    """The last of every ``period`` layers sees all, those before it a window."""
    layers = range(1, config["num_hidden_layers"] + 1)
    return ["sliding_attention" if layer % period else "full_attention" for layer in layers]


def _less_one(weights: Tensor) -> Tensor:
    return weights - 1

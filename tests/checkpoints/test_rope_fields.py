"""RoPE of the stock ``config.json``, as transformers reads it, is that of the source: every family, every type."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from gqasearch.checkpoints.config_json import stock_config
from gqasearch.checkpoints.plan import plan_checkpoint
from gqasearch.grouping import Grouping
from gqasearch.models import Config, family_of
from tests.matrix import thinned
from tests.tiny_models import GROUPED_NAMES, tiny_model

ROTATED = (*GROUPED_NAMES, "gpt_neox", "falcon")
PARTIAL = dict.fromkeys(("phi3", "stablelm", "stablelm_normed", "phi", "phi_normed", "gpt_neox"), 0.5)
HEAD_DIM, LONG = 16, 100  # positions beyond the original length of 32
PAIRED = Grouping.from_labels([[0, 0, 1, 1], [0, 1, 1, 0]])  # groups of one size: a Phi-3 with longrope takes no other


def variants(pairs: int) -> dict[str, dict[str, Any]]:
    """Every type of RoPE with the fields that it may have, for ``pairs`` frequencies."""
    short, long = [1.0 + 0.1 * i for i in range(pairs)], [2.0 + 0.3 * i for i in range(pairs)]
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    longrope = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    inside = {"original_max_position_embeddings": 32}
    return {
        "default": {"rope_type": "default"},
        "linear": {"rope_type": "linear", "factor": 2.5},
        "dynamic": {"rope_type": "dynamic", "factor": 3.0},
        "llama3": {"rope_type": "llama3", **llama3},
        "yarn": yarn,
        "yarn-attention-factor": {**yarn, "attention_factor": 1.7},
        "yarn-mscale": {**yarn, "mscale": 0.7, "mscale_all_dim": 1.3},
        "yarn-beta": {**yarn, "beta_fast": 8.0, "beta_slow": 2.0, "truncate": False},
        "longrope": {**longrope, **inside},
        "longrope-factor": {**longrope, **inside, "factor": 6.0},
        "longrope-attention-factor": {**longrope, **inside, "attention_factor": 1.6},
    }


def frequencies(config: PreTrainedConfig) -> list[Tensor]:
    """Cosines and sines that the model's RoPE gives, of few tokens and of more than it was trained on."""
    code = sys.modules[AutoModelForCausalLM._model_mapping[type(config)].__module__]
    (kind,) = [found for name, found in vars(code).items() if re.fullmatch(r"[A-Z]\w*RotaryEmbedding", name)]
    module, found = kind(config), list[Tensor]()
    for length in (8, LONG):
        for layer_type in _layer_types(config):
            found += _turned(module, torch.arange(length)[None], layer_type)
    return found


def _layer_types(config: PreTrainedConfig) -> list[str | None]:
    nested = "full_attention" in config.rope_parameters
    return ["full_attention", "sliding_attention"] if nested else [None]


def _turned(module: nn.Module, places: Tensor, kind: str | None) -> list[Tensor]:
    given = module(torch.zeros(1, places.shape[1], 1), places, **({} if kind is None else {"layer_type": kind}))
    return list(given)


def source_config(family: str, rope: dict[str, Any], words: str) -> Config:
    """``config.json`` as transformers 5 writes it, or in the words of version 4."""
    fraction = PARTIAL.get(family)
    config: Config = {**json.loads(_plain_config(family)), "max_position_embeddings": 128}
    partial = {} if fraction is None else {"partial_rotary_factor": fraction}
    if family == "gpt_neox" and words == "old":
        partial = {"rotary_pct": fraction}
    for name in ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "rotary_pct"):
        config.pop(name, None)
    if family == "phi3" and "original_max_position_embeddings" in rope:
        config["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    if family == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": 77.0}
        if words == "old":
            return config | {"rope_theta": 500.0, "rope_scaling": rope, "rope_local_base_freq": 77.0}
        return config | {
            "rope_parameters": {"full_attention": {"rope_theta": 500.0, **rope}, "sliding_attention": local}
        }
    if words == "old":
        kind = {"rope_scaling": None if rope["rope_type"] == "default" else rope}
        return config | {"rope_theta": 500.0, **kind, **partial}
    return config | {"rope_parameters": {"rope_theta": 500.0, **rope, **partial}}


@cache
def _plain_config(family: str) -> str:
    model = tiny_model(family, heads=4, head_dim=HEAD_DIM, layers=2)
    model.config.architectures = [type(model).__name__]
    return model.config.to_json_string(use_diff=False)


def read(config: Config, folder: Path) -> PreTrainedConfig:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    found: PreTrainedConfig = AutoConfig.from_pretrained(folder)
    return found


CASES = [
    (family, kind)
    for family in ROTATED
    for kind in variants(1)
    if family != "phi3" or kind.startswith(("default", "longrope"))  # all that its class takes
]
PHI3 = [case for case in CASES if case[0] == "phi3"]


@pytest.mark.parametrize(("case", "words"), thinned(CASES, ["new", "old"], always=PHI3))
def test_the_stock_config_turns_heads_as_the_source(case: tuple[str, str], words: str, tmp_path: Path) -> None:
    family, kind = case
    rope = variants(int(HEAD_DIM * PARTIAL.get(family, 1.0)) // 2)[kind]
    config = source_config(family, rope, words)
    wanted = frequencies(read(config, tmp_path / "source"))
    own = family_of(config)
    layout = plan_checkpoint(own, config, PAIRED)
    written = stock_config(*own.written_as(config), layout, torch.float32)
    found = frequencies(read(written, tmp_path / "written"))
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)

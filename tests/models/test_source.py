"""A checkpoint's folder: fields of config.json that are checked, and files that are asked of the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gqasearch.errors import UserError
from gqasearch.models import family_of
from gqasearch.models.loading import load_tokenizer
from gqasearch.models.source import ModelSource
from tests.tiny_models import edit_config, save_checkpoint, tiny_model


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *((name, "LlamaForCausalLM") for name in ("LlamaForCausalLm", "LlamaForCausallM", "LlamaForCasualLM")),
        ("GPTNeoxForCausalLM", "GPTNeoXForCausalLM"),
        ("GPT2LMHeadmodel", "GPT2LMHeadModel"),
    ],
)
def test_an_architecture_that_is_misspelt_is_answered_with_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"{given} is not supported; did you mean '{meant}'\? Supported"):
        family_of({"architectures": [given]})


@pytest.mark.parametrize(
    "given",
    [
        *("Llama4ForCausalLM", "Phi4ForCausalLM", "LlamaForSequenceClassification", "Llama", "MambaForCausalLM"),
    ],
)
def test_no_other_model_is_suggested(given: str) -> None:
    with pytest.raises(UserError, match=rf"{given} is not supported\. Supported: ApertusForCausalLM, "):
        family_of({"architectures": [given]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": "six"}, "num_attention_heads must be a number from 1 on, got 'six'"),
        ({"hidden_size": None}, "hidden_size must be a number from 1 on, got None"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be a number from 1 on, got 0"),
        ({"head_dim": 8.5}, "head_dim must be a number from 1 on, got 8.5"),
        ({"architectures": "LlamaForCausalLM"}, "architectures must be a list of names, got 'LlamaForCausalLM'"),
        ({"rope_parameters": "linear"}, "rope_parameters must be an object or null, got 'linear'"),
        ({"architectures": [3]}, "architectures must be a list of names, got [3]"),
        ({"architectures": {"a": 1}}, "architectures must be a list of names, got {'a': 1}"),
        ({"auto_map": "x"}, "auto_map must be an object or null, got 'x'"),
        ({"torch_dtype": "bf16"}, "torch_dtype must be the name of torch's"),
        ({"dtype": "int8"}, "got 'int8'"),
        ({"architectures": None, "model_type": "llama"}, 'add "architectures": ["LlamaForCausalLM"]'),
        ({"rope_scaling": 2}, "rope_scaling must be an object or null, got 2"),
    ],
)
def test_fields_of_another_kind_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 4}
    config |= {"num_hidden_layers": 1, **change}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        _ = ModelSource(tmp_path, "").geometry


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer .* copy them from the model"),
        (lambda folder: edit_config(folder, rms_norm_eps="1e-5"), "^cannot load /.*rms_norm_eps"),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text(
                json.dumps({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}})
            ),
            "tokenizer in .* needs Python code that comes with it",
        ),
    ],
)
def test_why_there_is_no_tokenizer(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_model("llama", layers=1), tmp_path)
    (folder / "tokenizer_config.json").unlink()
    spoil(folder)
    with pytest.raises(UserError, match=message):
        load_tokenizer(folder)

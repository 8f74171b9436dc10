"""config.json says the same to transformers 4 and 5, and nothing that is true of the source only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoTokenizer

from gqasearch.models import load_parent
from tests.checkpoints.convert import PADDED, SYMMETRIC, config_of, convert, load, reference, some_ids
from tests.matrix import sampled
from tests.tiny_models import FAMILY_NAMES, edit_config, save_checkpoint, tiny_model

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# The same model as transformers 5 and transformers 4 write it.
NEW_ROPE: dict[str, Any] = {"rope_parameters": {"rope_theta": 500.0, **LLAMA3}}
OLD_ROPE: dict[str, Any] = {"rope_theta": 500.0, "rope_scaling": LLAMA3}


def _converted(tmp_path: Path, family: str, changes: dict[str, Any], remove: tuple[str, ...] = ()) -> dict[str, Any]:
    source = save_checkpoint(tiny_model(family), tmp_path / "source")
    edit_config(source, remove, **changes)
    parent = load_parent(str(source))
    convert(parent, source, tmp_path / "out", PADDED)
    ids = some_ids()
    with torch.no_grad(), reference(parent, PADDED) as tied:
        assert float((load(tmp_path / "out")(ids).logits - tied(ids).logits).abs().max()) <= 5e-5
    return config_of(tmp_path / "out")


@pytest.mark.parametrize("rope", [NEW_ROPE, OLD_ROPE], ids=["new", "old"])
@pytest.mark.parametrize("family", sampled(FAMILY_NAMES, ["llama", "qwen3"]))
def test_scaled_rope_is_written_for_both_versions(family: str, rope: dict[str, Any], tmp_path: Path) -> None:
    config = _converted(tmp_path, family, rope, remove=("rope_parameters",) if rope is OLD_ROPE else ())
    assert config["rope_theta"] == 500.0
    assert config["rope_scaling"] == LLAMA3
    assert config["rope_parameters"] == {"rope_theta": 500.0, **LLAMA3}


def test_default_rope_has_no_scaling(tmp_path: Path) -> None:
    config = _converted(tmp_path, "llama", {"rope_parameters": {"rope_theta": 750.0, "rope_type": "default"}})
    assert (config["rope_theta"], config["rope_scaling"]) == (750.0, None)


def test_old_config_without_any_rope_field(tmp_path: Path) -> None:
    config = _converted(tmp_path, "mistral", {}, remove=("rope_parameters",))
    assert (config["rope_theta"], config["rope_scaling"]) == (10000.0, None)


def test_oldest_name_of_the_rope_type(tmp_path: Path) -> None:
    config = _converted(
        tmp_path,
        "llama",
        {"rope_theta": 900.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        remove=("rope_parameters",),
    )
    assert config["rope_parameters"] == {"rope_type": "linear", "factor": 2.0, "rope_theta": 900.0}
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("changes", "remove", "dtype"),
    [
        ({"dtype": "bfloat16"}, (), "bfloat16"),
        ({"torch_dtype": "float16"}, ("dtype",), "float16"),
        ({}, ("dtype",), "float32"),
    ],
)
def test_dtype_under_both_names(changes: dict[str, Any], remove: tuple[str, ...], dtype: str, tmp_path: Path) -> None:
    source = save_checkpoint(tiny_model("qwen2"), tmp_path / "source")
    edit_config(source, remove, **changes)
    convert(load_parent(str(source)), source, tmp_path / "out", SYMMETRIC)
    config = config_of(tmp_path / "out")
    assert config["dtype"] == config["torch_dtype"] == dtype
    assert load(tmp_path / "out").dtype == getattr(torch, dtype)


def test_fields_true_of_the_source_only_are_dropped_and_others_kept(tmp_path: Path) -> None:
    changes = {"_name_or_path": "/home/somebody/model", "pretraining_tp": 2, "initializer_range": 0.5}
    config = _converted(tmp_path, "llama", changes)
    assert not {"_name_or_path", "pretraining_tp", "auto_map"} & config.keys()
    assert config["initializer_range"] == 0.5


@pytest.mark.parametrize("written_by", ["4.30.0", None])
def test_tokenizer_of_a_llama_written_as_mistral_is_left_alone(
    written_by: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5 takes large vocabularies beside an old Mistral for broken, and asks to patch them."""
    monkeypatch.setattr(transformers.utils.logging.get_logger("transformers"), "propagate", True)
    caplog.set_level("WARNING", logger="transformers")  # a command line in this process silences it
    source = save_checkpoint(tiny_model("llama"), tmp_path / "source")
    _enlarge_vocabulary(source / "tokenizer.json")
    edit_config(source, transformers_version=written_by)
    convert(load_parent(str(source)), source, tmp_path / "out", PADDED)
    assert config_of(tmp_path / "out")["model_type"] == "mistral"
    caplog.clear()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "regex" not in caplog.text
    text = "Der größte Baum\n\tif x == 10: pass  "
    assert tokenizer(text).input_ids == AutoTokenizer.from_pretrained(source)(text).input_ids
    edit_config(tmp_path / "out", transformers_version=written_by)  # that the warning would have been seen
    AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "fix_mistral_regex=True" in caplog.text


def _enlarge_vocabulary(path: Path) -> None:
    """Above the 100,000 tokens from which transformers looks for the broken tokenizer; Llama 3 has 128,256."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"unused{index}": index for index in range(len(vocab), 100_010)}
    path.write_text(json.dumps(tokenizer), encoding="utf-8")

"""The AnyModel layout: fields as the pull request's text has them, and the network of the parent with tied heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from gqasearch.checkpoints import plan_layout
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.models import HeadGeometry
from tests.checkpoints.convert import PADDED, config_of
from tests.checkpoints.uneven import SOURCES, UNEVEN, assert_same, load_trusted, saved, write

SHAPE = HeadGeometry(2, 6, 6, 8, 48, 8)
EVEN = Grouping.from_labels([[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 1, 0]])  # 3 and 2 groups of equal size: nothing padded
CASES = [
    *(("llama", grouping, base) for grouping, base in ((UNEVEN, "Mistral"), (EVEN, "Llama"), (PADDED, "Mistral"))),
    ("mistral", UNEVEN, "Mistral"),
    ("qwen2", EVEN, "Qwen2"),
    ("qwen3", UNEVEN, "Qwen3"),
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("family", "grouping", "base"), CASES)
def test_written_checkpoint_equals_parent_with_tied_heads(
    family: str, grouping: Grouping, base: str, source: str, tmp_path: Path
) -> None:
    parent, folder = saved(tmp_path, family, **SOURCES[source])
    assert write(parent, folder, tmp_path / "out", grouping, "anymodel").name == "anymodel"
    assert_same(parent, load_trusted(tmp_path / "out"), grouping)
    assert config_of(tmp_path / "out")["base_architecture"] == f"{base}ForCausalLM"


def test_fields_are_those_of_the_pull_request(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    layout = write(parent, folder, tmp_path / "out", UNEVEN, "anymodel")
    assert layout.reason.endswith("6 query heads added to every layer, zero. Read, not run.")
    config: dict[str, Any] = config_of(tmp_path / "out")
    assert config["architectures"] == ["AnyModel"]
    assert [block["attention"] for block in config["block_configs"]] == [
        {"no_op": False, "num_key_value_heads": 2},
        {"no_op": False, "num_key_value_heads": 4},
    ]
    assert [block["ffn"] for block in config["block_configs"]] == [{"no_op": False}] * 2
    # What the base model is built with before layers are made anew, and the type by which its config is read.
    names = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "sliding_window")
    assert [config[name] for name in names] == ["mistral", 12, 4, 8, None]


def test_transformers_own_code_does_not_take_it_for_another_model(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen3")
    write(parent, folder, tmp_path / "out", UNEVEN, "anymodel")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)


def test_saved_again_it_is_the_same_model(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", UNEVEN, "anymodel")
    load_trusted(tmp_path / "out").save_pretrained(tmp_path / "again")
    assert_same(parent, load_trusted(tmp_path / "again"), UNEVEN)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("Qwen2ForCausalLM", "needs 12 query heads in place of 6, and vLLM takes hidden size / heads"),
        ("GemmaForCausalLM", "GemmaForCausalLM is none of LlamaForCausalLM, "),
    ],
)
def test_what_it_cannot_carry(architecture: str, message: str) -> None:
    with pytest.raises(UserError, match=f"layout anymodel.*{message}"):
        plan_layout(UNEVEN, SHAPE, "anymodel", {"architectures": [architecture]})

"""The OpenELM layout for MLX-LM: any numbers of KV heads, and every layer padded for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from gqasearch.checkpoints import plan_layout
from gqasearch.checkpoints.remote import modeling_openelm
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping
from gqasearch.models import HeadGeometry
from tests.checkpoints.convert import config_of, some_ids, stored_tensors
from tests.checkpoints.uneven import SOURCES, assert_same, load_trusted, saved, write
from tests.tiny_models import edit_config

SHAPE = HeadGeometry(2, 6, 6, 8, 48, 8)
ODD = Grouping.from_labels([[0, 1, 2, 0, 1, 0], [0, 1, 0, 0, 1, 0]])  # 3 and 2 groups, the largest of 3 and 4
EVEN = Grouping.from_labels([[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 1, 0]])


@pytest.mark.parametrize("grouping", [ODD, EVEN])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("family", "options"), [("llama", {}), ("mistral", {"hidden": 60}), ("llama", {"tied": True})])
def test_written_checkpoint_equals_parent_with_tied_heads(
    family: str, options: dict[str, Any], source: str, grouping: Grouping, tmp_path: Path
) -> None:
    parent, folder = saved(tmp_path, family, **SOURCES[source], **options)
    assert write(parent, folder, tmp_path / "out", grouping, "openelm").name == "openelm"
    assert_same(parent, load_trusted(tmp_path / "out"), grouping)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_and_half_precision(implementation: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", dtype=torch.bfloat16)
    write(parent, folder, tmp_path / "out", ODD, "openelm")
    written = load_trusted(tmp_path / "out", attn_implementation=implementation)
    assert written.dtype == torch.bfloat16
    assert written.generate(some_ids(6), max_new_tokens=3, min_new_tokens=3).shape == (2, 9)
    assert len(written(some_ids(6), output_hidden_states=True).hidden_states) == 3
    assert_same(parent, written.float(), ODD, torch.bfloat16)


def test_every_layer_has_no_more_query_heads_than_it_needs(tmp_path: Path) -> None:
    assert [len(slots) for slots in plan_layout(ODD, SHAPE, "openelm").slots] == [9, 8]
    reason = plan_layout(EVEN, SHAPE, "openelm").reason
    assert reason.endswith("no query head added.")
    parent, folder = saved(tmp_path, "llama", tied=True)
    write(parent, folder, tmp_path / "out", ODD, "openelm")
    config: dict[str, Any] = config_of(tmp_path / "out")
    assert (config["num_query_heads"], config["num_kv_heads"]) == ([9, 8], [3, 2])
    assert config["normalize_qk_projections"] is False
    assert config["share_input_output_layers"] is True
    assert config["rope_freq_constant"] == config["rope_theta"]
    stored, source = stored_tensors(tmp_path / "out"), stored_tensors(folder)
    assert "lm_head.weight" not in stored
    path = "transformer.layers.0"
    assert stored[f"{path}.attn.qkv_proj.weight"].shape == ((9 + 3 + 3) * 8, 48)
    assert stored[f"{path}.attn.out_proj.weight"].shape == (48, 9 * 8)
    gate, up = (source[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("gate", "up"))
    assert torch.equal(stored[f"{path}.ffn.proj_1.weight"], torch.cat([gate, up]))
    # What MLX-LM computes from the multiplier, with its divisor of 1.
    assert {int(part * 48 + 0.5) for part in config["ffn_multipliers"]} == {len(gate)}
    code = tmp_path / "out" / "modeling_openelm.py"
    assert code.read_bytes() == Path(modeling_openelm.__file__).read_bytes()


def test_saved_again_it_is_the_same_model(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", ODD, "openelm")
    load_trusted(tmp_path / "out").save_pretrained(tmp_path / "again")
    assert_same(parent, load_trusted(tmp_path / "again"), ODD)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"], "mlp_bias": True}, "this model has biases, OpenELM has none"),
        ({"architectures": ["LlamaForCausalLM"], "rope_scaling": {"type": "linear"}}, "RoPE is scaled .linear."),
        ({"architectures": ["Qwen2ForCausalLM"]}, "Qwen2ForCausalLM is no Llama or Mistral"),
    ],
)
def test_what_it_cannot_carry(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"layout openelm: .*{message}"):
        plan_layout(ODD, SHAPE, "openelm", config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": [3]}, "num_kv_heads must list one number for each of the 2 layers"),
        ({"num_kv_heads": [3, 5]}, r"num_kv_heads\[1\] must divide num_query_heads\[1\]=8, got 5"),
    ],
)
def test_bad_configs_are_refused_when_read(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", ODD, "openelm")
    edit_config(tmp_path / "out", **changes)
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)

"""The DeciLM layout: one padded number of query heads, any number of KV heads in every layer."""

from __future__ import annotations

from math import lcm
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from gqasearch.checkpoints import plan_layout, require_own_code
from gqasearch.checkpoints.deci import deci_query_heads
from gqasearch.checkpoints.remote import modeling_deci
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import HeadGeometry
from tests.checkpoints.convert import config_of, some_ids, stored_tensors
from tests.checkpoints.uneven import SOURCES, UNEVEN, assert_same, load_trusted, saved, write
from tests.matrix import thinned
from tests.tiny_models import edit_config

SHAPE = HeadGeometry(2, 6, 6, 8, 48, 8)
SPARING = Grouping.from_labels([[0, 1, 0, 1, 1, 0], [0, 1, 2, 1, 3, 0]])  # sizes 3, 3 and 2, 2, 1, 1: 8 slots
ODD = Grouping.from_labels([[0, 1, 2, 0, 1, 2], [0, 1, 0, 0, 1, 0]])  # 3 and 2 groups, the largest of 4: 12 slots


@pytest.mark.parametrize(
    ("family", "source", "grouping"), thinned(["llama", "mistral"], SOURCES, [UNEVEN, SPARING, ODD])
)
def test_written_checkpoint_equals_parent_with_tied_heads(
    family: str, source: str, grouping: Grouping, tmp_path: Path
) -> None:
    parent, folder = saved(tmp_path, family, **SOURCES[source])
    assert write(parent, folder, tmp_path / "out", grouping, "deci").name == "deci"
    assert_same(parent, load_trusted(tmp_path / "out"), grouping)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("mistral", {"hidden": 60}),
        ("llama", {"tied": True}),
        ("llama", {"hidden": 60}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}),
    ],
)
def test_variants_of_the_families(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **options)
    write(parent, folder, tmp_path / "out", UNEVEN, "deci")
    assert_same(parent, load_trusted(tmp_path / "out"), UNEVEN)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations(implementation: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", ODD, "deci")
    assert_same(parent, load_trusted(tmp_path / "out", attn_implementation=implementation), ODD)


def test_half_precision(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", dtype=torch.bfloat16)
    write(parent, folder, tmp_path / "out", UNEVEN, "deci")
    written = load_trusted(tmp_path / "out")
    assert written.dtype == torch.bfloat16
    assert written.generate(some_ids(6), max_new_tokens=3, min_new_tokens=3).shape == (2, 9)
    assert_same(parent, written.float(), UNEVEN, torch.bfloat16)


def test_saved_again_it_is_the_same_model_with_its_code(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", UNEVEN, "deci")
    load_trusted(tmp_path / "out").save_pretrained(tmp_path / "again")
    require_own_code(tmp_path / "again")
    assert "block_configs" not in config_of(tmp_path / "again")
    assert_same(parent, load_trusted(tmp_path / "again"), UNEVEN)


def test_what_other_tools_read(tmp_path: Path) -> None:
    """The fields of config.json that llama.cpp's converter takes, and what vLLM takes from the config class."""
    parent, folder = saved(
        tmp_path, "llama", **SOURCES["gqa"], rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    write(parent, folder, tmp_path / "out", SPARING, "deci")
    config = config_of(tmp_path / "out")
    assert config["architectures"] == ["DeciLMForCausalLM"]
    assert (config["num_attention_heads"], config["head_dim"]) == (16, 8)
    assert config["num_key_value_heads_per_layer"] == [2, 4]
    assert (config["rope_theta"], config["sliding_window"]) == (5e5, None)
    assert not {"block_configs", "attention_bias", "mlp_bias", "pretraining_tp"} & set(config)
    blocks = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True).block_configs
    assert [16 // block.attention.n_heads_in_group for block in blocks] == [2, 4]
    assert not any(block.attention.no_op or block.ffn.no_op or hasattr(block.ffn, "ffn_mult") for block in blocks)
    assert {block.ffn.intermediate_size for block in blocks} == {config["intermediate_size"]}
    code = tmp_path / "out" / "modeling_deci.py"
    assert code.read_bytes() == Path(modeling_deci.__file__).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=False)("ab").input_ids
    assert "trust_remote_code=True" in (tmp_path / "out" / "README.md").read_text()


def test_no_tensor_that_is_not_needed_and_empty_slots_are_zero(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", SPARING, "deci")
    stored = stored_tensors(tmp_path / "out")
    assert stored.keys() == stored_tensors(folder).keys() == load_trusted(tmp_path / "out").state_dict().keys()
    for layer, groups in enumerate(SPARING.group_counts):
        attention = f"model.layers.{layer}.self_attn"
        assert stored[f"{attention}.k_proj.weight"].shape == stored[f"{attention}.v_proj.weight"].shape
        assert stored[f"{attention}.k_proj.weight"].shape == (8 * groups, 48)
        q = stored[f"{attention}.q_proj.weight"].view(8, 8, 48)
        o = stored[f"{attention}.o_proj.weight"].view(48, 8, 8).transpose(0, 1)
        empty = {0: [3, 7], 1: [5, 7]}[layer]  # 4 slots for each group of 3; 2 for those of 1
        assert [slot for slot in range(8) if not q[slot].any() and not o[slot].any()] == empty


partitions = st.lists(st.integers(0, 5), min_size=6, max_size=6).map(LayerGrouping.from_labels)


@given(st.lists(partitions, min_size=1, max_size=3), st.integers(1, 3))
def test_the_fewest_query_heads_that_fit(layers: list[LayerGrouping], per_kv: int) -> None:
    grouping, shape = Grouping(tuple(layers)), HeadGeometry(len(layers), 6 * per_kv, 6, 8, 48, 8)

    def fits(heads: int) -> bool:
        return all(
            heads % layer.num_groups == 0 and heads // layer.num_groups >= max(layer.sizes) * per_kv for layer in layers
        )

    heads = deci_query_heads(grouping, shape)
    assert heads == next(h for h in range(1, 6 * per_kv * lcm(*range(1, 7)) + 1) if fits(h))
    if heads <= 4 * shape.num_attention_heads:
        for layer, placed in zip(layers, plan_layout(grouping, shape, "deci").slots, strict=True):
            assert len(placed) == heads
            assert sorted(query for query in placed if query is not None) == list(range(6 * per_kv))
            for slot, query in enumerate(placed):
                assert query is None or slot // (heads // layer.num_groups) == layer.labels[query // per_kv]


def test_too_much_padding_is_refused_with_its_price() -> None:
    grouping = Grouping.from_labels([[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 2, 3], [0, 0, 1, 2, 3, 4]])
    shape = HeadGeometry(3, 6, 6, 8, 48, 8)
    # lcm(3, 4, 5) = 60; 54 more heads of 8 by 48, in q and o of three layers.
    message = r"all group counts divide \(3, 4, 5\).*60 in place of 6, 124,416 more parameters. At most 4 times .* 24"
    with pytest.raises(UserError, match=message):
        plan_layout(grouping, shape, "deci")
    reason = plan_layout(grouping, shape).reason
    assert "nor DeciLM without much padding (60 query heads in place of 6, 124,416 more parameters)" in reason


LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize(
    ("config", "chosen", "words"),
    [
        (LLAMA, "deci", "Layers have 2 to 4 KV heads, which no stock architecture can say; DeciLM can, with 8 query"),
        (LLAMA | {"attention_bias": True}, "ragged", "nor DeciLM (this model has biases, DeciLM has none): query"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, "deci", "added ones zero (3,072 more"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 9}, "ragged", "has a sliding window"),
        (LLAMA | {"hidden_act": "gelu"}, "ragged", "this model's MLP uses gelu, DeciLM's silu"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "ragged", "Qwen3ForCausalLM is no Llama or Mistral"),
    ],
)
def test_auto_takes_it_where_the_source_and_the_padding_allow(config: dict[str, Any], chosen: str, words: str) -> None:
    layout = plan_layout(SPARING, SHAPE, "auto", config)
    assert layout.name == chosen
    assert words in layout.reason
    if chosen == "ragged":
        with pytest.raises(UserError, match="layout deci: "):
            plan_layout(SPARING, SHAPE, "deci", config)
    assert plan_layout(UNEVEN, SHAPE, "auto", LLAMA).name == "ragged"  # twice the query heads


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads_per_layer": [2]}, "must list one number for each of the 2 layers"),
        ({"num_key_value_heads_per_layer": [2, 5]}, r"per_layer\[1\] must divide num_attention_heads=8, got 5"),
        ({"num_key_value_heads_per_layer": [0, 4]}, r"per_layer\[0\] must divide num_attention_heads=8, got 0"),
        ({"sliding_window": 16}, "sliding_window must be null"),
    ],
)
def test_bad_configs_are_refused_when_read(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", SPARING, "deci")
    edit_config(tmp_path / "out", **changes)
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)

"""The ragged layout: real heads only, whatever the groups; loaded by transformers with the code in the folder."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from gqasearch.checkpoints import needs_remote_code, plan_layout, require_own_code, require_trust
from gqasearch.checkpoints.remote import modeling_ragged
from gqasearch.checkpoints.remote.modeling_ragged import RaggedLlamaConfig, RaggedLlamaForCausalLM
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import HeadGeometry
from tests.checkpoints.convert import PADDED, SYMMETRIC, config_of, stored_tensors
from tests.checkpoints.uneven import SOURCES, UNEVEN, assert_same, load_trusted, saved, write
from tests.matrix import thinned
from tests.tiny_models import FAMILY_NAMES, edit_config

FILE = "modeling_ragged.py"
SHAPE = HeadGeometry(2, 6, 6, 8, 48, 8)


@pytest.mark.parametrize(("family", "source"), thinned(FAMILY_NAMES, SOURCES))
def test_written_checkpoint_equals_parent_with_tied_heads(family: str, source: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **SOURCES[source])
    layout = write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    assert (layout.name, layout.kv_heads_per_layer, layout.kv_heads_words) == ("ragged", (2, 4), "2 to 4")
    assert_same(parent, load_trusted(tmp_path / "out"), UNEVEN)


@pytest.mark.parametrize("grouping", [SYMMETRIC, PADDED, Grouping.from_labels([[0] * 6, list(range(6))])])
def test_groupings_that_others_can_say_and_the_extremes(grouping: Grouping, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", grouping, "ragged")
    assert_same(parent, load_trusted(tmp_path / "out"), grouping)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),  # which no padded layout takes
        ("qwen3", {"attention_bias": True}),
        ("mistral", {"hidden": 60}),
        ("mistral", {"sliding_window": 7}),
        ("qwen3", {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 1}),
        ("llama", {"tied": True}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}),
    ],
)
def test_variants_of_the_families(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, **options)
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    written = load_trusted(tmp_path / "out")
    if "sliding_window" in options:
        assert written.config.sliding_window == 7
        cached = written.generate(torch.ones(1, 4, dtype=torch.long), max_new_tokens=2, return_dict_in_generate=True)
        assert [layer.keys.shape[1] for layer in cached.past_key_values.layers] == [2, 4]
    assert_same(parent, written, UNEVEN)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_and_maps(implementation: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen3", **SOURCES["gqa"])
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    written = load_trusted(tmp_path / "out", attn_implementation=implementation)
    assert_same(parent, written, UNEVEN)
    if implementation == "eager":
        maps = written(torch.ones(1, 5, dtype=torch.long), output_attentions=True).attentions
        assert [tuple(layer.shape) for layer in maps] == [(1, 12, 5, 5)] * 2
        assert all(torch.allclose(layer.sum(-1), torch.ones(1, 12, 5)) for layer in maps)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision(stored: torch.dtype, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen2", dtype=stored)  # the parent is loaded, and merged, in float32
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    assert {tensor.dtype for tensor in stored_tensors(tmp_path / "out").values()} == {stored}
    written = load_trusted(tmp_path / "out")
    assert written.dtype == stored
    ids = torch.ones(2, 6, dtype=torch.long)
    assert written.generate(ids, attention_mask=ids, max_new_tokens=3, min_new_tokens=3).shape == (2, 9)
    assert_same(parent, written.float(), UNEVEN, stored)


def test_saved_again_it_is_the_same_model_with_its_code(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen3")
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    load_trusted(tmp_path / "out").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / "out" / FILE).read_bytes()
    first, second = stored_tensors(tmp_path / "out"), stored_tensors(tmp_path / "again")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert_same(parent, load_trusted(tmp_path / "again"), UNEVEN)


def test_gradients_reach_every_weight_also_after_inference(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    model = load_trusted(tmp_path / "out").train()
    ids = torch.arange(20).view(1, 20)
    with torch.inference_mode():
        model(ids)
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in model.named_parameters() if "embed" not in n)


# What is in the folder


def test_real_heads_only_and_no_tensor_that_is_not_needed(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "qwen2")
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    stored, source = stored_tensors(tmp_path / "out"), stored_tensors(folder)
    assert stored.keys() == source.keys() == load_trusted(tmp_path / "out").state_dict().keys()
    for name, tensor in stored.items():
        if ".k_proj." in name or ".v_proj." in name:
            groups = UNEVEN.group_counts[int(name.split(".")[2])]
            assert tensor.shape == (8 * groups, *source[name].shape[1:])
        else:
            assert tensor.shape == source[name].shape


def test_config_and_code_beside_the_weights(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", **SOURCES["gqa"])
    assert not needs_remote_code(folder)
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    config = config_of(tmp_path / "out")
    assert config["num_key_value_heads_per_layer"] == [2, 4]
    assert config["kv_group_sizes"] == [[8, 4], [6, 2, 2, 2]]  # sorted by size
    assert (config["num_attention_heads"], config["architectures"]) == (12, ["RaggedLlamaForCausalLM"])
    code = Path(modeling_ragged.__file__).read_bytes()
    assert (tmp_path / "out" / FILE).read_bytes() == code
    foreign = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(code))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert foreign - sys.stdlib_module_names == {"torch", "transformers"}
    for trust in (False, True):
        assert AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=trust)("ab").input_ids
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'from_pretrained("PATH_TO_THIS_FOLDER", trust_remote_code=True)' in card
    assert f"runs `{FILE}` of this folder" in card and "layout `ragged`" in card
    assert "2 to 4 KV heads" in card and "No code of gqasearch is needed" not in card


def test_without_trust_it_is_not_loaded(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert needs_remote_code(tmp_path / "out")
    with pytest.raises(UserError, match=rf"{FILE} \(the file that gqasearch writes\)\. Give --trust-remote-code"):
        require_trust(tmp_path / "out")


def test_code_that_is_not_ours_is_named(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    require_own_code(tmp_path / "out")
    with (tmp_path / "out" / FILE).open("a") as file:
        file.write("# and something else\n")
    with pytest.raises(UserError, match=rf"did not write \({FILE}\); it is not run"):
        require_own_code(tmp_path / "out")
    with pytest.raises(UserError, match=rf"{FILE} \(NOT a file of this gqasearch"):
        require_trust(tmp_path / "out")
    shutil.copy(modeling_ragged.__file__, tmp_path / "out" / FILE)
    edit_config(tmp_path / "out", auto_map={"AutoModelForCausalLM": "org/other--modeling.Model"})
    with pytest.raises(UserError, match="org/other--modeling"):
        require_own_code(tmp_path / "out")


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_group_sizes": None}, "kv_group_sizes must list one entry for each of the 2 layers, got None"),
        ({"kv_group_sizes": [[4, 2]]}, "kv_group_sizes must list one entry for each of the 2 layers"),
        ({"num_key_value_heads_per_layer": [2]}, "num_key_value_heads_per_layer must list one entry for each of the 2"),
        ({"kv_group_sizes": [[4, 2], [3, 2, 2]]}, r"kv_group_sizes\[1\] must add up to num_attention_heads=6"),
        ({"kv_group_sizes": [[4, 2, 0], [3, 3]]}, r"kv_group_sizes\[0\] must list whole numbers from 1"),
        ({"kv_group_sizes": [[4, 2], 6]}, r"kv_group_sizes\[1\] must list whole numbers from 1, got 6"),
        ({"kv_group_sizes": [[4, 2], [3, 3]]}, r"num_key_value_heads_per_layer\[1\] is 4, kv_group_sizes has 2"),
    ],
)
def test_bad_configs_are_refused_when_read(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama")
    write(parent, folder, tmp_path / "out", UNEVEN, "ragged")
    edit_config(tmp_path / "out", **changes)
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)


def test_without_groups_it_is_the_stock_model() -> None:
    config = RaggedLlamaConfig(
        num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3, hidden_size=48, vocab_size=20
    )
    assert (config.num_key_value_heads_per_layer, config.kv_group_sizes) == ([3, 3], [[2, 2, 2]] * 2)
    model = RaggedLlamaForCausalLM(config)
    assert float(model.model.layers[0].self_attn.k_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    with pytest.raises(ValueError, match="num_key_value_heads=4 does not divide num_attention_heads=6"):
        RaggedLlamaConfig(num_attention_heads=6, num_key_value_heads=4, hidden_size=48)


def test_an_architecture_without_the_layout_is_refused() -> None:
    with pytest.raises(UserError, match=r"GPTNeoXForCausalLM has no ragged layout.*by layer: 2, 4.*LlamaFor"):
        plan_layout(UNEVEN, SHAPE, "auto", {"architectures": ["GPTNeoXForCausalLM"]})


def test_stock_is_refused_where_counts_differ_and_chosen_where_they_do_not() -> None:
    with pytest.raises(UserError, match=r"has 2 to 4 \(by layer: 2, 4\).*--kv-ratio or --kv-heads.*--layout auto"):
        plan_layout(UNEVEN, SHAPE, "stock")
    assert plan_layout(SYMMETRIC, SHAPE).name == "stock-symmetric"
    assert plan_layout(PADDED, SHAPE).name == "stock-padded"
    # 3 more query heads of 8 by 48 in q and o of two layers.
    assert (
        "9 query heads in place of 6, the added ones zero (4,608 more parameters)" in plan_layout(PADDED, SHAPE).reason
    )
    assert (
        plan_layout(Grouping.uniform(LayerGrouping.singletons(6), 2), SHAPE, "ragged").slots == (tuple(range(6)),) * 2
    )

"""The MiMo layout: G KV heads in some layers, 2 G in the others, without remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import counts_of_two
from gqasearch.checkpoints import plan_layout
from gqasearch.checkpoints.mimo import SINK
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import ParentLayers, RoundedLayers
from gqasearch.grouping import Grouping
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import HeadGeometry, resolve_model
from gqasearch.rounding import parse_format
from gqasearch.steps import Workspace
from gqasearch.steps.check_settings import check_settings
from gqasearch.steps.measure import checkpoint_layers
from gqasearch.steps.outlook import Outlook
from tests.checkpoints.convert import config_of, load, some_ids, stored_tensors
from tests.checkpoints.uneven import SOURCES, UNEVEN, assert_same, load_trusted, saved, write

SHAPE = HeadGeometry(2, 6, 6, 8, 48, 8)
SINKS = "model.layers.1.self_attn.attention_sink_bias"
LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("family", "options"), [("llama", {}), ("mistral", {"hidden": 60}), ("llama", {"tied": True})])
def test_written_checkpoint_equals_parent_with_tied_heads(
    family: str, options: dict[str, Any], source: str, tmp_path: Path
) -> None:
    """``load`` gives no trust, and refuses tensors that the model has not."""
    parent, folder = saved(tmp_path, family, **SOURCES[source], **options)
    assert write(parent, folder, tmp_path / "out", UNEVEN, "mimo").name == "mimo"
    assert not list((tmp_path / "out").glob("*.py"))
    assert_same(parent, load(tmp_path / "out"), UNEVEN)


def test_half_precision_has_no_sinks_either(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", dtype=torch.bfloat16)
    write(parent, folder, tmp_path / "out", UNEVEN, "mimo")
    written = load(tmp_path / "out")
    for dtype in (torch.bfloat16, torch.float16):
        low = written.to(dtype)
        sinks = low.model.layers[1].self_attn.sinks
        assert torch.exp(sinks.float() + 20_000).max() == 0  # beside a score of -20,000
        assert torch.isfinite(low(some_ids()).logits).all()
    assert_same(parent, load(tmp_path / "out").float(), UNEVEN, torch.bfloat16)


def test_a_source_without_the_first_part_of_names_and_in_shards(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "llama", tied=True)
    bare = parent.model.model
    bare.config.architectures = None
    bare.save_pretrained(tmp_path / "bare", max_shard_size="20KB")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((folder / name).read_bytes())
    write(parent, tmp_path / "bare", tmp_path / "out", UNEVEN, "mimo")
    stored = stored_tensors(tmp_path / "out")
    assert all(name.startswith("model.") or name == "lm_head.weight" for name in stored)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    assert_same(parent, load(tmp_path / "out"), UNEVEN)


def test_what_other_tools_read(tmp_path: Path) -> None:
    """Fields of vLLM, MLX-LM and llama.cpp that say what transformers reads elsewhere."""
    parent, folder = saved(tmp_path, "llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5}, tied=True)
    write(parent, folder, tmp_path / "out", UNEVEN, "mimo")
    config: dict[str, Any] = config_of(tmp_path / "out")
    assert config["hybrid_layer_pattern"] == [0, 1]
    assert (config["num_key_value_heads"], config["swa_num_key_value_heads"]) == (2, 4)
    assert config["num_attention_heads"] == config["swa_num_attention_heads"] == 12
    assert config["rope_theta"] == config["swa_rope_theta"] == 5e5
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 5e5
    assert config["layernorm_epsilon"] == config["rms_norm_eps"]
    assert config["sliding_window_size"] >= config["max_position_embeddings"]
    assert config["moe_layer_freq"] == [0, 0]
    stored = stored_tensors(tmp_path / "out")
    assert torch.equal(stored[SINKS], torch.full((12,), SINK))
    assert SINKS.replace(".1.", ".0.") not in stored
    assert torch.equal(stored["lm_head.weight"], stored["model.embed_tokens.weight"])  # MLX-LM ties nothing


def test_its_cache_is_rounded_as_that_of_a_deci(tmp_path: Path) -> None:
    """The same keys and values; its layers, which are of two kinds, run one by one."""
    parent, folder = saved(tmp_path, "llama")
    ids = some_ids()
    mask = torch.ones_like(ids, dtype=torch.bool)
    found, whole = {}, {}
    layouts: tuple[LayoutChoice, ...] = ("mimo", "deci")
    for layout in layouts:
        write(parent, folder, tmp_path / layout, UNEVEN, layout)
        model = load_trusted(tmp_path / layout).double()
        layers = checkpoint_layers(resolve_model(str(folder)), tmp_path / layout, model)
        assert isinstance(layers, ParentLayers)
        found[layout], whole[layout] = RoundedLayers(layers, parse_format("4"))(ids, mask), layers(ids, mask)
    torch.testing.assert_close(found["mimo"], found["deci"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole["mimo"], whole["deci"], rtol=1e-4, atol=1e-4)
    assert float((found["mimo"] - whole["mimo"]).abs().max()) > 1e-2


@pytest.mark.parametrize(
    ("config", "labels", "message"),
    [
        (
            LLAMA,
            [[0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 3, 3]],
            "G in some layers and 2 G .* has 3, 4 by layer: use --layout d",
        ),
        (LLAMA, [[0, 0, 1, 1, 2, 2]] * 2, "has 3, 3 by layer: stock says that; search with --layout mimo"),
        (LLAMA | {"attention_bias": True}, None, "this model has biases, MiMo has none"),
        (
            LLAMA | {"rope_scaling": {"rope_type": "llama3"}},
            None,
            "this model's RoPE is scaled .llama3., MiMo's is not",
        ),
        ({"architectures": ["Qwen3ForCausalLM"]}, None, "Qwen3ForCausalLM is no Llama or Mistral"),
    ],
)
def test_what_it_cannot_carry(config: dict[str, Any], labels: list[list[int]] | None, message: str) -> None:
    grouping = UNEVEN if labels is None else Grouping.from_labels(labels)
    with pytest.raises(UserError, match=f"layout mimo.*{message}"):
        plan_layout(grouping, SHAPE, "mimo", config)


@given(st.integers(2, 9), st.sampled_from([8, 12, 16]), st.floats(0.05, 0.9), st.sampled_from([1, 2]))
def test_a_budget_of_two_numbers(layers: int, heads: int, ratio: float, step: int) -> None:
    counts = counts_of_two(ratio * layers * heads, layers, heads, step)
    assert sorted(set(counts)) == [min(counts), 2 * min(counts)]
    assert min(counts) % step == 0 and max(counts) <= heads
    reachable = {g * (layers + n) for g in range(step, heads // 2 + 1, step) for n in range(1, layers)}
    assert abs(sum(counts) - ratio * layers * heads) == min(abs(one - ratio * layers * heads) for one in reachable)
    assert counts_of_two(sum(counts), layers, heads, step, exactly=True) == counts


def test_a_search_stays_within_them() -> None:
    """The embedded model: 6 layers of 12 heads. Every search method that shares a budget out takes the bounds."""
    budget = Workspace(build_config({"layout": "mimo", "kv_ratio": 0.25})).budget
    assert (budget.counts, budget.count_step, budget.most_groups) == ((4, 4, 4, 2, 2, 2), 2, 4)
    with pytest.raises(UserError, match="25 in 6 layers is no such sum, 24 is one"):
        check_settings(Workspace(build_config({"layout": "mimo", "kv_budget": 25})))
    with pytest.raises(UserError, match="method qcqa-ac decides the groups of every layer; leave layout mimo out"):
        check_settings(Workspace(build_config({"layout": "mimo", "method": "qcqa-ac"})))
    with pytest.raises(UserError, match="stock says that"):
        Outlook(Workspace(build_config({"layout": "mimo", "kv_heads": 4}))).check()
    Outlook(Workspace(build_config({"layout": "mimo", "kv_ratio": 0.25}))).check()

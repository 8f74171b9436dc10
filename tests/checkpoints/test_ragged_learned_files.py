"""Checkpoints of OPT and GPT-2 as files: sources as they lie on disk, what is written, what is refused, whole runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer
from typer.testing import CliRunner

from gqasearch.checkpoints import merged_by_group, needs_remote_code, plan_checkpoint, require_own_code, require_trust
from gqasearch.checkpoints.remote import modeling_ragged_learned as code
from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import cached_kv_heads
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import MergeRecord, read_grouping
from gqasearch.merging import make_merge
from gqasearch.models import ModelSource, family_of, load_parent, read_config
from gqasearch.steps import Workspace, materialize
from gqasearch.steps.check_settings import check_settings
from gqasearch.targets import TARGETS, TargetName
from tests.checkpoints.convert import SYMMETRIC, config_of, document_for, stored_tensors
from tests.checkpoints.test_ragged_learned import FAMILIES, FILE, written
from tests.checkpoints.uneven import UNEVEN, assert_same, load_trusted, write
from tests.samples import text_file
from tests.tiny_models import edit_config, save_checkpoint, tiny_model

INDEX = "model.safetensors.index.json"
LARGEST_FIRST = Grouping.from_labels([[0, 1, 0, 0, 1, 0], [0, 1, 0, 2, 3, 0]])


# Sources as they lie on disk


def without_prefix(source: Path, target: Path, shards: int) -> Path:
    """The checkpoint as saved from the bare model: no first part in any name, no output head, GPT-2's old masks."""
    target.mkdir()
    for path in source.glob("*.json"):
        if path.name != INDEX:
            (target / path.name).write_bytes(path.read_bytes())
    tensors = {
        name.partition(".")[2]: t for name, t in stored_tensors(source).items() if not name.startswith("lm_head")
    }
    if any(name.startswith("h.") for name in tensors):
        tensors |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 9, 9).tril() for layer in range(2)}
    files = [f"model-{part + 1:05}-of-{shards:05}.safetensors" for part in range(shards)]
    places = {name: files[place % shards] for place, name in enumerate(tensors)}
    for file in files:
        save_file({n: t for n, t in tensors.items() if places[n] == file}, target / file, metadata={"format": "pt"})
    (target / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return target


@pytest.mark.parametrize("family", [*FAMILIES, "qwen2"])
def test_names_without_the_first_part_in_shards(family: str, tmp_path: Path) -> None:
    """As the hub's ``gpt2``: what is converted in the files is what was converted in the running model."""
    bare = without_prefix(save_checkpoint(tiny_model(family, tied=True), tmp_path / "source"), tmp_path / "bare", 3)
    parent = load_parent(str(bare))
    for index in range(2):
        stored, running = ModelSource(bare, "").layer(index), parent.layer(index)
        assert torch.equal(stored.k, running.k) and torch.equal(stored.o, running.o)
    write(parent, bare, tmp_path / "out", UNEVEN, "auto")
    before, after = stored_tensors(bare), stored_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert sorted(path.name for path in bare.glob("*.safetensors")) == sorted(
        path.name for path in (tmp_path / "out").glob("*.safetensors")
    )
    assert_same(parent, load_trusted(tmp_path / "out"), UNEVEN)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merge_of_weights_does_not_load_the_model(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_checkpoint(tiny_model(family), tmp_path / "source", max_shard_size="20KB")
    parent = load_parent(str(source))
    document = replace(document_for(parent, LARGEST_FIRST), merge=MergeRecord("mean-renorm"))
    monkeypatch.setattr("gqasearch.steps.workspace.load_parent", None)
    materialize(Workspace(build_config({"model": str(source)})), document, tmp_path / "out")
    merge = make_merge("mean-renorm")
    stored = stored_tensors(tmp_path / "out")
    for index, groups in enumerate(LARGEST_FIRST.group_counts):
        merged = merged_by_group(merge, parent.layer(index), LARGEST_FIRST.layers[index])
        assert merged.num_kv_heads == groups and merged.k_bias is not None
        if family == "opt":
            key = stored[f"model.decoder.layers.{index}.self_attn.k_proj.weight"]
        else:
            key = stored[f"transformer.h.{index}.attn.c_attn.weight"][:, 48 : 48 + 8 * groups].T
        assert torch.equal(key, merged.k.flatten(0, 1))


# What is in the folder


@pytest.mark.parametrize("family", FAMILIES)
def test_config_code_and_tensors(family: str, tmp_path: Path) -> None:
    _, out = written(tmp_path, family, LARGEST_FIRST)
    source, config, name = config_of(tmp_path / "source"), config_of(out), {"opt": "OPT", "gpt2": "GPT2"}[family]
    own = {
        "architectures": [f"Ragged{name}ForCausalLM"],
        "model_type": f"ragged_{family}",
        "auto_map": {
            "AutoConfig": f"modeling_ragged_learned.Ragged{name}Config",
            "AutoModelForCausalLM": f"modeling_ragged_learned.Ragged{name}ForCausalLM",
        },
        "num_key_value_heads_per_layer": [2, 4],
        "kv_group_sizes": [[4, 2], [3, 1, 1, 1]],
        "torch_dtype": "float32",
    }
    assert config == source | own
    assert (out / FILE).read_bytes() == Path(code.__file__).read_bytes()
    assert [path.name for path in out.glob("*.py")] == [FILE] and needs_remote_code(out)
    require_own_code(out)
    with pytest.raises(UserError, match=rf"{FILE} \(the file that gqasearch writes\)\. Give --trust-remote-code"):
        require_trust(out)
    assert AutoTokenizer.from_pretrained(out, trust_remote_code=False)("ab").input_ids
    card = (out / "README.md").read_text()
    assert f"runs `{FILE}` of this folder" in card and "2 to 4 KV heads" in card
    before, after = stored_tensors(tmp_path / "source"), stored_tensors(out)
    assert before.keys() == after.keys()
    narrower = {name: tuple(after[name].shape) for name in before if before[name].shape != after[name].shape}
    if family == "gpt2":
        shapes = {"weight": lambda g: (48, 48 + 16 * g), "bias": lambda g: (48 + 16 * g,)}
        expected = {f"transformer.h.{i}.attn.c_attn.{k}": s(g) for i, g in ((0, 2), (1, 4)) for k, s in shapes.items()}
    else:
        shapes = {"weight": lambda g: (8 * g, 48), "bias": lambda g: (8 * g,)}
        path = "model.decoder.layers.{}.self_attn.{}_proj.{}"
        expected = {path.format(i, p, k): s(g) for i, g in ((0, 2), (1, 4)) for p in "kv" for k, s in shapes.items()}
    assert narrower == expected


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_group_sizes": None}, "kv_group_sizes must list one entry for each of the 2 layers, got None"),
        ({"num_key_value_heads_per_layer": [2]}, "num_key_value_heads_per_layer must list one entry for each of the 2"),
        ({"kv_group_sizes": [[4, 2], [3, 2, 2]]}, r"kv_group_sizes\[1\] must add up to 6 attention heads, got \[3"),
        ({"kv_group_sizes": [[4, 2, 0], [3, 3]]}, r"kv_group_sizes\[0\] must list whole numbers from 1"),
        ({"kv_group_sizes": [[4, 2], 6]}, r"kv_group_sizes\[1\] must list whole numbers from 1, got 6"),
        ({"kv_group_sizes": [[4, 2], [3, 3]]}, r"num_key_value_heads_per_layer\[1\] is 4, kv_group_sizes has 2"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_bad_configs_are_refused_when_read(family: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    _, out = written(tmp_path, family)
    edit_config(out, **changes)
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(out, trust_remote_code=True)


def test_cross_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="add_cross_attention must be false"):
        code.RaggedGPT2Config(add_cross_attention=True)
    config = {"architectures": ["GPT2LMHeadModel"], "n_embd": 48, "n_head": 6, "n_layer": 2}
    with pytest.raises(UserError, match=r"this GPT-2 has cross-attention \(add_cross_attention\)"):
        family_of(config).geometry(config | {"add_cross_attention": True})


def test_without_groups_it_is_the_stock_model() -> None:
    config = code.RaggedGPT2Config(n_layer=2, n_head=6, n_embd=48, vocab_size=20, n_positions=16)
    assert (config.num_key_value_heads_per_layer, config.kv_group_sizes) == ([6, 6], [[1] * 6] * 2)
    model = code.RaggedGPT2ForCausalLM(config)
    assert tuple(model.transformer.h[0].attn.c_attn.weight.shape) == (48, 144)
    assert float(model.transformer.h[0].attn.c_attn.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("grouping", [SYMMETRIC, UNEVEN], ids=["equal", "uneven"])
@pytest.mark.parametrize("family", FAMILIES)
def test_targets_take_it_or_say_why_not(family: str, grouping: Grouping, target: TargetName) -> None:
    architecture = {"opt": "OPTForCausalLM", "gpt2": "GPT2LMHeadModel"}[family]
    config = tiny_model(family).config.to_dict() | {"architectures": [architecture]}
    if target == "transformers":
        planned = plan_checkpoint(family_of(config), config, grouping, "auto", target)
        assert planned.name == "ragged" and planned.query_heads == 6
        assert planned.reason == (
            f"{architecture} has as many key and value heads as query heads and no grouped form: query heads are "
            "reordered, none is added, and the checkpoint brings its own modelling file. For transformers."
        )
        return
    why = TARGETS[target].cannot["ragged"]
    with pytest.raises(UserError, match=f"target {target} loads no .*{architecture} has .* ragged, and {why}. Use --t"):
        plan_checkpoint(family_of(config), config, grouping, "auto", target)


def test_a_search_for_such_a_target_does_not_begin(tmp_path: Path) -> None:
    model = str(save_checkpoint(tiny_model("gpt2"), tmp_path / "model"))
    for settings in ({}, {"equal_sizes": True}, {"uneven": True}):
        config = build_config({"model": model, "target": "llama.cpp", "block_length": 32, **settings})
        with pytest.raises(UserError, match=r"target llama.cpp loads no converted checkpoint of this model: GPT2LMH"):
            check_settings(Workspace(config))
    check_settings(Workspace(build_config({"model": model, "target": "transformers", "block_length": 128})))
    with pytest.raises(UserError, match="--block-length 129 is beyond this model's context of 128"):
        check_settings(Workspace(build_config({"model": model, "block_length": 129})))


@pytest.mark.parametrize(
    ("layout", "message"), [("stock", "layout stock: OPTFor.*no grouped form. Use"), ("deci", "no Llama")]
)
def test_other_layouts_are_refused(layout: Any, message: str, tmp_path: Path) -> None:
    config = read_config(save_checkpoint(tiny_model("opt"), tmp_path / "source"))
    with pytest.raises(UserError, match=message):
        plan_checkpoint(family_of(config), config, SYMMETRIC, layout)


# Whole runs


@pytest.mark.parametrize("family", FAMILIES)
def test_search_and_materialize_from_the_command_line(family: str, tmp_path: Path) -> None:
    model, text = str(save_checkpoint(tiny_model(family), tmp_path / "model")), str(text_file(tmp_path))

    def call(*arguments: str | Path) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    run = tmp_path / "run"
    tokens = ["--calibration-tokens", "600", "--search-tokens", "300", "--evaluation-tokens", "300"]
    common = ["--model", model, "--calibration-text", text, "--block-length", "32"]
    method = ["--kv-budget", "7", "--method", "evolution", "--output-dir", run]
    assert "layout ragged: " in call("search", *common, *tokens, *method)
    grouping = read_grouping(run / "grouping.json").grouping
    assert grouping.kv_heads_total == 7 and len(set(grouping.group_counts)) == 2
    metrics = json.loads((run / "metrics.json").read_text())
    result, parent = metrics["results"]["converted"], metrics["parent"]
    assert result["kv_bytes_per_token"] * 12 == parent["kv_bytes_per_token"] * 7
    assert result["parameters"] == parent["parameters"] - 5 * 2 * 8 * (48 + 1)  # K and V of 5 heads, and their biases
    output = call("materialize", run / "grouping.json", *common, "--merge", "mean", "--output-dir", tmp_path / "out")
    assert "ragged. " in output and "no grouped form: query heads are reordered" in output
    assert cached_kv_heads(load_trusted(tmp_path / "out")) == list(grouping.group_counts)
    figures = call("evaluate", tmp_path / "out", "--parent", model, *common[2:], "--trust-remote-code", "--json")
    assert json.loads(figures)["results"]["converted"]["kl"] > result["kl"]  # refined, and by the better merge

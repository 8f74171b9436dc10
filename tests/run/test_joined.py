"""Whole runs with ``join``: KV heads of several heads' size, told in the model's own figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import count_parameters, kv_bytes_per_token
from gqasearch.grouping_document import read_grouping, write_grouping
from gqasearch.grouping_fit import check_fits
from gqasearch.healing import HealConfig
from gqasearch.models import load_parent, resolve_model
from gqasearch.run import RunFolder, run
from gqasearch.run.heal import heal
from gqasearch.run.origin import evaluation_config, healing_settings, materialize_config
from gqasearch.steps import Workspace
from gqasearch.steps.check_settings import check_settings
from gqasearch.steps.convert import check_convertible, materialize
from gqasearch.steps.measure import checkpoint_subject, measure
from tests.samples import random_blocks
from tests.tiny_models import VOCAB_SIZE, save_checkpoint, tiny_model

SMALL = {"population": 8, "offspring": 8, "generations": 6}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))


def finished(settings: dict[str, Any], folder: Path, **changes: Any) -> RunFolder:
    return run(build_config({**settings, "method_parameters": SMALL, **changes}), folder, report=False)


def test_as_much_memory_as_before_loses_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    """Two heads in one of twice the size: by closed form alone, through search, checkpoint and evaluation."""
    folder = finished(settings, tmp_path / "run", join=2, kv_ratio=1.0, refine="none")
    metrics, document = json.loads(folder.metrics.read_text()), read_grouping(folder.grouping)
    parent, mine = metrics["parent"], metrics["results"]["converted"]
    assert document.grouping.group_counts == (3, 3) and document.kv_ratio == 1.0
    assert mine["kl"] < 1e-6 and mine["perplexity"] == pytest.approx(parent["perplexity"], rel=1e-6)
    assert mine["kv_bytes_per_token"] == parent["kv_bytes_per_token"]
    assert metrics["results"]["neighbour"]["kl"] == 0  # as many heads as the model has
    plain = load_parent(settings["model"])
    assert parent["parameters"] == count_parameters(plain.model) < mine["parameters"]
    written = AutoModelForCausalLM.from_pretrained(folder.model)
    ids = random_blocks(VOCAB_SIZE).ids
    with torch.no_grad():
        difference = (written(ids).logits - plain.model(ids).logits).abs().max()
    assert float(difference) < 1e-3


def test_a_third_in_one_head_of_twice_the_size(settings: dict[str, Any], tmp_path: Path) -> None:
    """Six heads of one layer share; what is written is what was measured, and no worse than two heads of one size."""
    few = {"refine_parameters": {"steps": 10}}
    folder = finished(settings, tmp_path / "run", join=2, kv_ratio=1 / 3, **few)
    metrics, document = json.loads(folder.metrics.read_text()), read_grouping(folder.grouping)
    assert document.grouping.group_counts == (1, 1) and document.join == 2 and document.model.head_dim == 8
    assert document.kv_ratio == pytest.approx(1 / 3)
    mine, baseline = metrics["results"]["converted"], metrics["results"]["neighbour"]
    assert mine["kv_bytes_per_token"] == baseline["kv_bytes_per_token"] == metrics["parent"]["kv_bytes_per_token"] / 3
    assert kv_bytes_per_token(AutoModelForCausalLM.from_pretrained(folder.model)) == mine["kv_bytes_per_token"]
    plain = finished(settings, tmp_path / "plain", kv_ratio=1 / 3, **few)
    grouped = json.loads(plain.metrics.read_text())
    assert grouped["parent"] == metrics["parent"] and grouped["results"]["neighbour"]["kl"] == baseline["kl"]
    assert mine["kl"] < grouped["results"]["converted"]["kl"]
    card = " ".join((folder.model / "README.md").read_text().split())
    assert "6 KV heads per layer became 1 of 2 times the size" in card and "33.3% of the parent's" in card
    assert "use `gqasearch export-gguf`" in card


@pytest.mark.parametrize("layout", ["auto", "ragged"])
def test_layers_may_differ(settings: dict[str, Any], tmp_path: Path, layout: str) -> None:
    """What is written is loaded back and held against what was measured, in every layout."""
    folder = finished(settings, tmp_path / "run", join=2, uneven=True, kv_ratio=2 / 3, refine="none", layout=layout)
    document = read_grouping(folder.grouping)
    assert document.grouping.kv_heads_total == 4 and document.kv_ratio == pytest.approx(2 / 3)
    assert all(size >= 2 for layer in document.grouping for size in layer.sizes)
    assert json.loads(folder.metrics.read_text())["checkpoint"]["layout"] is not None


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_heads_without_rope(settings: dict[str, Any], tmp_path: Path, family: str) -> None:
    """Which no stock form can say: ragged, equal to what was measured, its cache as large as promised."""
    model = str(save_checkpoint(tiny_model(family), tmp_path / family))
    joined = {**settings, "model": model, "join": 2}
    whole = finished(joined, tmp_path / "whole", kv_ratio=1.0, refine="none")
    assert json.loads(whole.metrics.read_text())["results"]["converted"]["kl"] < 1e-6
    folder = finished(joined, tmp_path / "run", kv_ratio=1 / 3, refine_parameters={"steps": 10})
    metrics = json.loads(folder.metrics.read_text())
    mine, baseline = metrics["results"]["converted"], metrics["results"]["neighbour"]
    assert metrics["checkpoint"]["layout"] == "ragged" and mine["kl"] < baseline["kl"]
    assert mine["kv_bytes_per_token"] == baseline["kv_bytes_per_token"] == metrics["parent"]["kv_bytes_per_token"] / 3
    written = AutoModelForCausalLM.from_pretrained(folder.model, trust_remote_code=True)
    assert kv_bytes_per_token(written) == mine["kv_bytes_per_token"]
    ids = torch.randint(5, VOCAB_SIZE, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        steps = [written.generate(ids, max_new_tokens=6, do_sample=False, use_cache=use) for use in (True, False)]
    assert torch.equal(*steps)


def test_a_front_counts_memory(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(
        {**settings, "merge": "optimal", "refine": "none", "materialize": False},
        tmp_path / "run",
        join=3,
        objectives=["merge-error", "kv-ratio"],
    )
    points = json.loads(folder.pareto.read_text())["points"]
    assert len(points) > 1
    assert {round(point["values"][1], 9) for point in points} <= {round(3 * k / 12, 9) for k in range(2, 5)}


def test_a_grouping_is_of_the_joined_model(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", join=2, kv_ratio=1 / 3, materialize=False, refine="none")
    document = read_grouping(folder.grouping)
    write_grouping(tmp_path / "again.json", document)
    assert (tmp_path / "again.json").read_bytes() == folder.grouping.read_bytes()
    check_convertible(Workspace(build_config({**settings, "join": 2})), document)
    with pytest.raises(UserError, match="KV heads of 2 times the size, join is 1"):
        check_convertible(Workspace(build_config(settings)), document)
    source = resolve_model(str(settings["model"]))  # the model as it was given is the one that it is of
    check_fits(document, source.geometry, source.fingerprint)
    text = folder.grouping.read_text()
    assert '"join": 2' in text
    (tmp_path / "wrong.json").write_text(text.replace('"join": 2', '"join": 3'))
    with pytest.raises(UserError, match=r"kv_ratio: is 0\.333\d*, the layers give 0\.5"):
        read_grouping(tmp_path / "wrong.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"merge": "mean"}, "--join 2 needs --merge optimal: merge mean makes one head"),
        ({"kv_ratio": 1.05}, "--kv-ratio must be above 0 and at most 1, got 1.05"),
        ({"kv_heads": 4}, "--join 2: at most 3 KV heads of 2 times the size take no more memory than the 6"),
        ({"target": "any"}, "target any loads no heads that were joined: ctranslate2: its converter"),
        ({"target": "ctranslate2"}, "target ctranslate2 loads no heads that were joined"),
        ({"join": 7}, "--join 7: this model has 6 KV heads, of which none can join 7"),
    ],
)
def test_refusals(settings: dict[str, Any], tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        finished(settings, tmp_path / "run", **{"join": 2, **changes})
    assert not (tmp_path / "run").exists()


def test_a_qwen2_goes_where_its_head_size_is_read(settings: dict[str, Any], tmp_path: Path) -> None:
    model = save_checkpoint(tiny_model("qwen2"), tmp_path / "model")
    own = {**settings, "model": str(model), "join": 2, "equal_sizes": True, "kv_heads": 3}
    with pytest.raises(UserError, match="vllm loads no heads that were joined: it takes hidden size / heads"):
        finished(own, tmp_path / "run", target="vllm")
    check_settings(Workspace(build_config({**own, "target": "llama.cpp"})))


def test_an_odd_number_of_heads(settings: dict[str, Any], tmp_path: Path) -> None:
    """Three heads have room for one of twice the size, whatever more is asked for."""
    model = save_checkpoint(tiny_model("llama", heads=6, kv_heads=3), tmp_path / "model")
    own = {**settings, "model": str(model), "join": 2, "refine": "none", "materialize": False}
    document = read_grouping(finished(own, tmp_path / "run", kv_ratio=1.0).grouping)
    assert document.grouping.group_counts == (1, 1) and document.kv_ratio == pytest.approx(2 / 3)


def test_what_is_made_of_a_run_later_goes_by_it(settings: dict[str, Any], tmp_path: Path) -> None:
    """Its grouping is written again, its checkpoint measured and healed: all from the model without joined heads."""
    few = {"refine": "none", "join": 2, "kv_ratio": 1 / 3}
    folder = finished(settings, tmp_path / "run", **few)
    wanted = json.loads(folder.metrics.read_text())
    moved = tmp_path / "alone.json"
    moved.write_bytes(folder.grouping.read_bytes())
    for index, made in enumerate((folder.path, moved)):
        given = {} if index == 0 else {name: settings[name] for name in ("calibration_text", "block_length")}
        config = materialize_config(made, given)
        assert config.join == 2
        materialize(Workspace(config), read_grouping(folder.grouping), tmp_path / f"again-{index}")
        again, first = (path / "model.safetensors" for path in (tmp_path / f"again-{index}", folder.model))
        assert again.read_bytes() == first.read_bytes()
    work = Workspace(evaluation_config(folder.path, {}))
    found = measure(work, {"converted": checkpoint_subject(work, folder.model)}, is_run=False)
    assert work.config.join == 1 and found["results"]["converted"]["kl"] == wanted["results"]["converted"]["kl"]
    small = {"steps": 2, "validation_tokens": 100, "evaluation_tokens": 100, "batch_blocks": 2, "block_length": 32}
    config_of_healing = HealConfig(
        **healing_settings(str(folder.path), {**small, "text": settings["calibration_text"]})
    )
    healed = heal(config_of_healing, tmp_path / "healed")
    figures = json.loads(healed.metrics.read_text())
    assert figures["parent"]["kv_bytes_per_token"] == wanted["parent"]["kv_bytes_per_token"]
    assert AutoModelForCausalLM.from_pretrained(healed.model).config.head_dim == 16

"""The embedded model is as good as its card says, and the main job on it does what the README says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.demo import demo_configs
from gqasearch.calibration import load_documents, make_blocks
from gqasearch.config import build_config
from gqasearch.embedded import model_directory
from gqasearch.evaluation import cached_kv_heads, evaluate_quality, model_runner
from gqasearch.models import load_parent
from gqasearch.run import RunFolder, run
from tests.matrix import nightly


@pytest.mark.parametrize(("tokens", "most"), [(20_000, 1.26), nightly((10**9, 1.20))])
def test_bits_per_byte_on_held_out_modules(tokens: int, most: float) -> None:
    parent = load_parent("embedded")
    assert parent.tokenizer is not None
    blocks = make_blocks(load_documents("embedded", "evaluation"), parent.tokenizer, 256, tokens, "held-out")
    own, _ = evaluate_quality(model_runner(parent.model), {}, blocks)
    assert own.bits_per_byte <= most
    assert own.targets > min(0.99 * tokens, 150_000)


def test_it_is_multi_head_small_and_complete() -> None:
    folder = model_directory()
    config = json.loads((folder / "config.json").read_text())
    assert config["num_attention_heads"] == config["num_key_value_heads"] == 12
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16_000_000
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert log[-2]["step"] == log[-1]["settings"]["steps"]
    assert f"{log[-2]['bits_per_byte']:.3f} bits per byte" in (folder / "README.md").read_text()


# A quarter of the demo's text; a thirtieth and a tenth of the steps.
QUICK: dict[str, Any] = {"calibration_tokens": 32768, "evaluation_tokens": 16384}
BRIEF: dict[str, Any] = {"calibration_tokens": 4096, "evaluation_tokens": 2048, "refine_parameters": {"steps": 16}}


def quick(ratio: float, name: str, folder: Path, less: dict[str, Any]) -> tuple[RunFolder, float]:
    """One run of the demo with less text; its KL."""
    config = demo_configs(ratio, "embedded", 0)[name].model_dump()
    fitted = name == "gqasearch"  # the baseline has no refinement
    config |= {key: value for key, value in less.items() if fitted or key != "refine_parameters"}
    found = run(build_config(config), folder / f"{ratio}-{name}", report=False)
    return found, json.loads(found.metrics.read_text())["results"]["converted"]["kl"]


@pytest.mark.parametrize(
    ("ratio", "share", "less"),
    [(0.5, 1 / 5, BRIEF), nightly((0.5, 1 / 8, QUICK)), nightly((0.25, 1 / 6, QUICK))],
    ids=["brief", "half", "quarter"],
)
def test_ours_keeps_what_the_baseline_loses(ratio: float, share: float, less: dict[str, Any], tmp_path: Path) -> None:
    _, baseline = quick(ratio, "gqa", tmp_path, less)
    folder, ours = quick(ratio, "gqasearch", tmp_path, less)
    assert ours <= share * baseline
    model = AutoModelForCausalLM.from_pretrained(folder.model, trust_remote_code=False)
    assert cached_kv_heads(model) == [round(12 * ratio)] * 6
    with torch.no_grad():
        assert model.generate(torch.tensor([[0, 70, 71]]), max_new_tokens=8, do_sample=False).shape == (1, 11)

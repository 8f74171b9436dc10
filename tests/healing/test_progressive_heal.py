"""Heads that move from their own K and V to the shared one while a checkpoint is healed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gqasearch.checkpoints import needs_remote_code
from gqasearch.errors import UserError
from gqasearch.healing.trainer import HealingTrainer, arguments
from gqasearch.healing.training import progress_of_merge
from gqasearch.healing.training_loss import TrainingLoss
from gqasearch.healing.written_layers import ProgressiveStudent, WrittenLayers
from gqasearch.models import read_config
from gqasearch.models.loading import load_model
from tests.checkpoints.convert import some_ids, stored_tensors
from tests.healing.healed import LAYOUTS, changed, converted, healed, history_of, settings, slots_of
from tests.matrix import sampled


@pytest.mark.parametrize("layout", sampled(LAYOUTS, ["stock-padded", "ragged"]))
def test_begins_at_the_parent_and_ends_at_the_checkpoint(layout: str, tmp_path: Path) -> None:
    _, start = converted(tmp_path, layout)
    folder = healed(tmp_path, progressive=0.5, evaluate_every=1)
    history = history_of(folder)
    assert history[1]["loss"] < 1e-6  # nothing is merged yet
    # What is measured is what would be written, on the way as well.
    metrics = json.loads(folder.metrics.read_text())
    assert history[0]["kl"] > 0.5 * metrics["results"]["start"]["kl"]
    assert changed(start, folder.model) == stored_tensors(start).keys()
    # What was trained last is what was written: the first line of another run measures it.
    again = healed(tmp_path, "again", model=str(folder.model), steps=1, learning_rate=1e-9)
    assert history_of(again)[0]["kl"] == pytest.approx(history[-1]["kl"], rel=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "opt", "phi3", "qwen2", "qwen3", "cohere", "persimmon", "phi_normed"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_both_ends_are_models_that_exist(family: str, share: float, tmp_path: Path) -> None:
    stock = "stock-padded" if family == "qwen3" else "stock-symmetric"
    layout = "ragged" if family in ("gpt2", "opt", "persimmon") else stock
    parent, start = converted(tmp_path, layout, family)
    model = load_model(start, torch.float32, "cpu", trust_remote_code=needs_remote_code(start))
    written = WrittenLayers.of(model, read_config(start), parent, LAYOUTS[layout][0])
    student = ProgressiveStudent.of(written, whole=True)
    student.module.set_share(share)
    expected = parent.model if share == 0 else model
    with torch.no_grad():
        torch.testing.assert_close(student.module(some_ids()).logits, expected(some_ids()).logits, atol=5e-5, rtol=0)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    student.arrived()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())


def test_patience_begins_when_the_heads_have_arrived(tmp_path: Path) -> None:
    converted(tmp_path, "stock-padded")
    folder = healed(tmp_path, steps=12, evaluate_every=1, progressive=0.5, patience=1, learning_rate=1e-2)
    metrics = json.loads(folder.metrics.read_text())
    assert metrics["steps"] > 6
    assert metrics["results"]["healed"]["kl"] < metrics["results"]["start"]["kl"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_norms_and_biases_do_not_decay(family: str, tmp_path: Path) -> None:
    parent, start = converted(tmp_path, "ragged" if family == "gpt2" else "stock-padded", family)
    model = load_model(start, torch.float32, "cpu", trust_remote_code=needs_remote_code(start))
    written = WrittenLayers.of(
        model, read_config(start), parent, LAYOUTS["ragged" if family == "gpt2" else "stock-padded"][0]
    )
    config = settings(tmp_path, progressive=0.5, weight_decay=0.1)
    trainer = HealingTrainer(
        TrainingLoss(None), model=ProgressiveStudent.of(written, whole=True).module, args=arguments(config, 1, tmp_path)
    )
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    rest = {name for name, _ in trainer.model.named_parameters()} - decayed
    assert decayed and rest
    assert not any("norm" in name or "ln_" in name or "bias" in name for name in decayed)
    assert all("norm" in name or "ln_" in name or "bias" in name for name in rest)


def test_empty_slots_stay_exactly_zero(tmp_path: Path) -> None:
    _, start = converted(tmp_path, "stock-padded")
    folder = healed(tmp_path, progressive=0.3)
    for layer in range(2):
        zero = ~slots_of(start, layer)[0].flatten(1).any(1)
        q, o = slots_of(folder.model, layer)
        assert zero.any() and not q[zero].any() and not o[zero].any()


def test_the_way_ends_where_it_is_said(tmp_path: Path) -> None:
    config = settings(tmp_path, progressive=0.5, steps=8)
    shares = [progress_of_merge(config, step) for step in range(9)]
    assert shares == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_a_source_that_is_written_as_another_family_is_refused(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric", "gpt_neox")
    with pytest.raises(UserError, match=r"written as another family.*leave progressive out"):
        healed(tmp_path, progressive=0.5)

"""Healing of whole checkpoints, in every layout: they get better and stay what they are."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gqasearch.checkpoints import needs_remote_code
from gqasearch.errors import UserError
from gqasearch.files import write_json
from gqasearch.healing.teacher import StoredParent, store_parent
from gqasearch.healing.written_layers import WrittenLayers
from gqasearch.models import read_config
from gqasearch.models.loading import load_model
from gqasearch.refining.grouped_parent import GroupedParent
from gqasearch.run.heal import heal
from tests.checkpoints.convert import convert, some_ids, stored_tensors
from tests.checkpoints.uneven import UNEVEN, saved
from tests.healing.healed import LAYOUTS, changed, converted, healed, history_of, settings, slots_of
from tests.matrix import nightly, sampled
from tests.tiny_encoders import ENCODERS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_healed_checkpoint_is_better_and_still_the_grouped_model(layout: str, tmp_path: Path) -> None:
    parent, start = converted(tmp_path, layout)
    folder = healed(tmp_path)
    sinks = {
        name for name in stored_tensors(start) if name.endswith("attention_sink_bias")
    }  # below all scores, as before
    assert changed(start, folder.model) == stored_tensors(start).keys() - sinks
    metrics = json.loads(folder.metrics.read_text())
    before, after = metrics["results"]["start"], metrics["results"]["healed"]
    assert after["kl"] < before["kl"]
    assert after["kv_bytes_per_token"] == before["kv_bytes_per_token"] < metrics["parent"]["kv_bytes_per_token"]
    kl = [line["kl"] for line in history_of(folder)]
    assert len(kl) == 4 and kl[-1] < kl[0]
    # The source's code with tied heads, and everything else that was trained, computes the same.
    model = load_model(folder.model, torch.float32, "cpu", trust_remote_code=needs_remote_code(folder.model))
    written = WrittenLayers.of(model, read_config(folder.model), parent, LAYOUTS[layout][0])
    with torch.no_grad():
        for name, parameter in parent.model.named_parameters():
            if ".self_attn." not in name:
                parameter.copy_(model.get_parameter(name))
        tied = GroupedParent(parent, written.grouping, written.read())
        torch.testing.assert_close(tied(some_ids()).logits, model(some_ids()).logits, atol=5e-5, rtol=0)


def test_what_has_other_tensors_than_the_parent_is_not_healed(tmp_path: Path) -> None:
    parent, source = saved(tmp_path, "llama")
    convert(parent, source, tmp_path / "start", UNEVEN, layout="openelm")
    with pytest.raises(UserError, match=r"layout openelm, whose tensors are others .* not healed. Materialize its"):
        heal(settings(tmp_path), tmp_path / "healed")


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        ("stock-padded", {}),
        ("stock-padded", {"train": "lora"}),
        ("deci", {"train": "attention", "weight_decay": 0.1}),
        nightly(("stock-padded", {"train": "attention", "weight_decay": 0.1})),
        nightly(("deci", {})),
        nightly(("deci", {"train": "lora"})),
    ],
)
def test_empty_slots_stay_exactly_zero(layout: str, change: dict[str, Any], tmp_path: Path) -> None:
    _, start = converted(tmp_path, layout)
    folder, empty = healed(tmp_path, learning_rate=0.02, **change), 0
    for layer in range(2):
        (q, o), (new_q, new_o) = slots_of(start, layer), slots_of(folder.model, layer)
        zero = ~q.flatten(1).any(1)
        empty += int(zero.sum())
        assert not new_q[zero].any() and not new_o[zero].any()
        assert (new_q[~zero] != q[~zero]).any() and (new_o[~zero] != o[~zero]).any()
    assert empty > 0


@pytest.mark.parametrize("part", ["attention", "lora"])
def test_only_attention_is_trained_where_that_is_asked_for(part: str, tmp_path: Path) -> None:
    _, start = converted(tmp_path, "stock-symmetric")
    folder = healed(tmp_path, train=part)
    names = {name for name in stored_tensors(start) if ".self_attn." in name}
    assert changed(start, folder.model) == names
    kl = [line["kl"] for line in history_of(folder)]
    assert kl[-1] < kl[0]


def test_lora_changes_by_matrices_of_its_rank(tmp_path: Path) -> None:
    _, start = converted(tmp_path, "stock-symmetric")
    folder = healed(tmp_path, train="lora", lora_rank=2)
    before, after = stored_tensors(start), stored_tensors(folder.model)
    for name in changed(start, folder.model):
        assert int(torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-4)) == 2


@pytest.mark.parametrize(
    "family", sampled(["gpt2", "opt", "phi3", "qwen2", "gpt_neox", "falcon", *ENCODERS], ["gpt2", "gpt_neox", "bert"])
)
def test_families(family: str, tmp_path: Path) -> None:
    layout = "ragged" if family in ("gpt2", "opt", *ENCODERS) else "stock-symmetric"
    converted(tmp_path, layout, family)
    kl = [line["kl"] for line in history_of(healed(tmp_path))]
    assert kl[-1] < kl[0]


def test_gradients_added_up_over_passes_are_those_of_one_pass(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric")
    once, twice = healed(tmp_path, "once"), healed(tmp_path, "twice", pass_blocks=1)
    for name, tensor in stored_tensors(once.model).items():
        torch.testing.assert_close(stored_tensors(twice.model)[name], tensor, atol=2e-4, rtol=0)


@pytest.mark.nightly
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted(tmp_path, "ragged")
    plain = healed(tmp_path, "plain", train="attention")
    calls: list[object] = []
    run_again = torch.utils.checkpoint.checkpoint

    def counted(function: Any, *given: Any, **options: Any) -> Any:
        calls.append(function)
        return run_again(function, *given, **options)

    monkeypatch.setattr("transformers.modeling_utils.checkpoint", counted)
    spared = healed(tmp_path, "spared", train="attention", gradient_checkpointing=True)
    assert len(calls) == 6 * 2  # every step, every layer
    for name, tensor in stored_tensors(plain.model).items():
        torch.testing.assert_close(stored_tensors(spared.model)[name], tensor, atol=1e-6, rtol=0)


def test_bfloat16_trains_float32_weights(tmp_path: Path) -> None:
    _, start = converted(tmp_path, "stock-symmetric")
    folder, exact = healed(tmp_path, precision="bfloat16"), healed(tmp_path, "exact")
    kl = [line["kl"] for line in history_of(folder)]
    assert kl[-1] < kl[0]
    assert changed(start, folder.model)
    losses = [[line["loss"] for line in history_of(one)[1:]] for one in (folder, exact)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_parent_on_disk_teaches_what_the_parent_teaches(tmp_path: Path) -> None:
    parent, _ = converted(tmp_path, "stock-symmetric")
    live, stored = healed(tmp_path, "live"), healed(tmp_path, "stored", parent_top_k=parent.config["vocab_size"])
    few = healed(tmp_path, "few", parent_top_k=3)
    for name, tensor in stored_tensors(live.model).items():
        torch.testing.assert_close(stored_tensors(stored.model)[name], tensor, atol=2e-4, rtol=0)
    losses = [[line["loss"] for line in history_of(folder)[1:]] for folder in (live, stored, few)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2][0] < losses[0][0]  # what happens among all other tokens is not seen
    assert not few.states.exists()


def test_attention_is_drawn_to_the_parents(tmp_path: Path) -> None:
    converted(tmp_path, "ragged")
    plain, drawn = healed(tmp_path, "plain"), healed(tmp_path, "drawn", attention_weight=1.0)
    losses = [history_of(folder)[1]["loss"] for folder in (plain, drawn)]
    assert losses[1] > losses[0]  # the error comes on top
    assert changed(plain.model, drawn.model)


def test_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric")
    folder = healed(tmp_path, steps=40, learning_rate=1.0, warmup=0.0, gradient_norm=0, patience=2)
    kl = [line["kl"] for line in history_of(folder)]
    best = kl.index(min(kl))
    assert len(kl) - 1 - best == 2 and len(kl) < 21
    metrics = json.loads(folder.metrics.read_text())
    assert metrics["stopped_early"] and metrics["steps"] == 2 * (len(kl) - 1)
    again = heal(settings(tmp_path, model=str(folder.model), steps=1, learning_rate=1e-9), tmp_path / "again")
    assert history_of(again)[0]["kl"] == pytest.approx(kl[best], rel=1e-5)


def test_the_language_model_loss_fits_the_text(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric")
    lines = history_of(healed(tmp_path, loss="language-model"))
    assert lines[-1]["perplexity"] < lines[0]["perplexity"]


def test_the_card_tells_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, also where the run was stopped after the card and before the figures that it tells of were written."""

    def stop(path: Path, *given: Any, **options: Any) -> None:
        if path.name == "metrics.json":
            raise KeyboardInterrupt
        write_json(path, *given, **options)

    converted(tmp_path, "stock-symmetric")
    with monkeypatch.context() as patch:
        patch.setattr(
            sys.modules["gqasearch.run.heal.heal"], "write_json", stop
        )  # the package's name for it is heal()'s
        with pytest.raises(KeyboardInterrupt):
            healed(tmp_path)
    card = (healed(tmp_path).model / "README.md").read_text()
    assert card.count("## Healing") == 1
    assert "not fine-tuned" not in card
    assert "healed: all parameters trained on its parent's predictions for 6 steps of 64 tokens" in card
    assert "learning_rate: 0.003" in card and "Not measured" not in card


@pytest.mark.nightly
def test_a_checkpoint_healed_twice_tells_of_both(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric")
    once = healed(tmp_path, "once")
    twice = healed(tmp_path, "twice", model=str(once.model), steps=4)
    card = (twice.model / "README.md").read_text()
    assert all(f"predictions for {steps} steps of 64 tokens" in card for steps in (6, 4))
    record = json.loads((twice.model / "healing.json").read_text())
    assert (record["steps"], record["before"]["steps"]) == (4, 6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"block_length": 4096}, "beyond this model's context"),
        ({"parent": "embedded"}, "was not made from this parent"),
        ({"text": "missing.txt"}, "no such file"),
        ({"evaluation_text": "missing.txt"}, "no such file"),
        ({"device": "cudaa"}, "--device cudaa cannot be used here"),
        ({"device": "cpu,cpu"}, "--device cpu,cpu: each process of a healing trains on one device"),
        ({"revision": "main"}, "--revision main is of models on the hub"),
        ({"learning_rate": 1e30, "gradient_norm": 0}, "diverged before step 2"),
        ({"progressive": 0.5}, "has no grouping.json"),
    ],
)
def test_mistakes_are_told(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    _, start = converted(tmp_path, "stock-symmetric")
    if "progressive" in change:
        (start / "grouping.json").unlink()
    with pytest.raises(UserError, match=words):
        healed(tmp_path, **change)


@pytest.mark.parametrize(
    ("name", "content"), [("short.txt", b"few"), ("other.txt", b"\xff\xfe\xfa"), ("none.txt", b"")]
)
def test_text_that_cannot_be_reported_on_is_told_before_anything_is_made(
    name: str, content: bytes, tmp_path: Path
) -> None:
    converted(tmp_path, "stock-symmetric")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        healed(tmp_path, evaluation_text=str(tmp_path / name))
    assert not (tmp_path / "healed").exists()


def test_another_parent_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric")
    weights = tmp_path / "source" / "model.safetensors"
    save_file({name: tensor + 1e-3 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"belongs to another model .* the weights differ"):
        healed(tmp_path)
    assert not (tmp_path / "healed").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric")
    with pytest.raises(UserError, match=r"text.txt is no folder; give another --output-dir"):
        healed(tmp_path, "text.txt")


def test_the_parent_runs_over_no_more_than_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted(tmp_path, "stock-symmetric")
    kept: list[StoredParent] = []

    def keep(*given: Any, **options: Any) -> StoredParent:
        kept.append(store_parent(*given, **options))
        return kept[-1]

    monkeypatch.setattr("gqasearch.run.heal.work.store_parent", keep)
    healed(tmp_path, parent_top_k=3, steps=3)
    assert len(kept[0].blocks) == len(kept[0].logp) == len(kept[0].tokens) == 3 * 2


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_given: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    converted(tmp_path, "stock-symmetric")
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        healed(tmp_path, parent_top_k=3)
    assert not list(tmp_path.rglob("*logp*"))


def test_another_runs_folder_is_not_touched(tmp_path: Path) -> None:
    converted(tmp_path, "stock-symmetric")
    folder = healed(tmp_path)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="seed was 0, is 1"):
        healed(tmp_path, seed=1)
    healed(tmp_path)  # the same settings: nothing is left to do
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before

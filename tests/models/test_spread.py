"""Layers spread over several devices, of which this machine has but one: two names of it, and two that are faked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from gqasearch.calibration import TokenBlocks
from gqasearch.calibration.collect import eager_attention
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter, ParentLayers, evaluate_quality
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import LayerWeights, Parent, load_parent, read_config, supported_architectures, tie_heads
from gqasearch.models.device import check_device, devices_of
from gqasearch.models.loading_on_demand import load_model_within, load_on_demand
from gqasearch.models.on_demand import on_demand
from gqasearch.models.spread import Spread, decoder_layers
from gqasearch.models.tensors import CheckpointTensors
from gqasearch.refining import Descent, GroupedParent
from gqasearch.refining.streams import Streams
from tests.matrix import sampled
from tests.samples import random_blocks
from tests.tiny_models import ALL_FAMILY_NAMES, MORE_FAMILY_NAMES, VOCAB_SIZE, save_checkpoint, tiny_model

LAYERS = 4
HALF = LayerGrouping.neighbours(6, 3)
KINDS = sampled((*ALL_FAMILY_NAMES, *MORE_FAMILY_NAMES), ("llama", "gpt2", "gemma2", "falcon", "phi"))


def blocks() -> TokenBlocks:
    return random_blocks(VOCAB_SIZE, padded=True)


def saved(family: str, folder: Path) -> Path:
    return save_checkpoint(tiny_model(family, layers=LAYERS), folder)


def parent_on(device: str, folder: Path) -> Parent:
    """Weights of no layer in memory."""
    config = read_config(folder)
    family = supported_architectures()[config["architectures"][0]]
    model = load_on_demand(folder, torch.float32, device, room=0)
    return Parent("tiny", model, config, family, directory=folder)


def test_layers_are_in_runs_and_the_rest_is_on_the_first() -> None:
    model = tiny_model("llama", layers=5)
    spread = Spread(model, ["cuda:0", "cuda:1", "cuda:2"])
    assert [spread.of(layer).index for layer in decoder_layers(model)] == [0, 0, 1, 1, 2]
    assert spread.of(decoder_layers(model)[4].self_attn.q_proj).index == 2
    for module in (model.get_input_embeddings(), model.get_output_embeddings(), model):
        assert spread.of(module).index == 0


@pytest.mark.parametrize("family", KINDS)
def test_two_names_of_one_device_compute_what_one_does(family: str, tmp_path: Path) -> None:
    """Evaluation and descent, layer by layer and whole."""
    saved(family, tmp_path)
    grouping = Grouping((HALF,) * LAYERS)
    found = []
    for device in ("cpu", "cpu,cpu"):
        parent = parent_on(device, tmp_path)
        converter = Converter(parent, make_merge("mean"), lambda: pytest.fail("mean needs no statistics"))
        layers = converter.refine(grouping, blocks(), Descent(steps=2))
        measured = evaluate_quality(ParentLayers(parent), {"it": converter.runner(grouping, layers)}, blocks())
        with torch.no_grad():
            found.append((measured, parent.model(blocks().ids).logits))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


@contextmanager
def faked(parent: Parent, devices: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block the parent is on devices that this machine does not have: tensors without values, which tell
    their device and refuse what real ones would.
    """
    read = CheckpointTensors.read

    def read_values(self: CheckpointTensors, name: str) -> Tensor:
        with unset_fake_temporarily():
            return read(self, name)

    monkeypatch.setattr(CheckpointTensors, "read", read_values)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), eager_attention(parent):
        spread = Spread(parent.model, devices)
        monkeypatch.setattr(parent.weights, "_spread", spread)
        for module in parent.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(spread.of(module)))
        yield


@pytest.mark.parametrize("family", KINDS)
def test_nothing_meets_across_devices(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, text = parent_on("cpu", saved(family, tmp_path)), blocks()
    rows = list(text.batches(len(text.ids)))
    monkeypatch.setattr(TokenBlocks, "batches", lambda *_: iter(rows))  # they look at values
    with faked(parent, ("lazy:0", "lazy:1"), monkeypatch):
        assert [parent.layer_device(index).index for index in range(LAYERS)] == [0, 0, 1, 1]
        assert parent.model(text.ids.to("lazy:0")).logits.device.index == 0
        streams = Streams(parent, text, len(text.ids), tmp_path / "streams")
        for index in range(LAYERS):
            streams.advance_parent(index)
            site, weights = streams.site(index, HALF), parent.layer(index)
            call = site.calls[0]
            found = {tensor.device.index for tensor in (weights.k, call.hidden, call.wanted, call.mask)}
            assert found == {index // 2}
            half = of_groups(weights)
            assert site.attend(half, call).device.index == index // 2
            streams.advance_converted(index, tie_heads(half, HALF, parent.geometry.queries_per_kv))
        leaving = streams.converted.hidden[0].flatten(0, 1)
        assert leaving.device.index == 1 and ParentLayers(parent).predict(leaving[:5]).device.index == 0


@pytest.mark.parametrize("family", KINDS)
def test_layers_are_fitted_together_where_they_are(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refined layers come from files, to no device but the CPU."""
    parent, text = parent_on("cpu", saved(family, tmp_path)), blocks()
    layers = {index: of_groups(parent.layer(index)) for index in range(LAYERS)}
    with faked(parent, ("lazy:0", "lazy:1"), monkeypatch), torch.enable_grad():
        model = GroupedParent(parent, Grouping((HALF,) * LAYERS), layers)
        assert [layer.q.device.index for layer in model.layers] == [0, 0, 1, 1]
        logits = model(text.ids.to("lazy:0")).logits
        assert logits.device.index == 0
        logits.sum().backward()
        assert [layer.v.grad.device.index for layer in model.layers] == [0, 0, 1, 1]


def test_each_device_has_room_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for two layers on each of two devices: all four stay, where one device keeps two."""
    parent = parent_on("cpu", saved("llama", tmp_path))
    weights = parent.weights
    assert weights is not None
    layers = decoder_layers(parent.model)
    units = [[module for module in layer.modules() if module in weights._units] for layer in layers]
    weights.room = 2 * sum(map(weights._size, units[0]))

    def kept() -> list[int]:
        for layer in layers:
            weights.load(layer)
        return [index for index, mine in enumerate(units) if all(unit in weights._resident for unit in mine)]

    assert kept() == [2, 3]
    with faked(parent, ("lazy:0", "lazy:1"), monkeypatch):
        assert kept() == [0, 1, 2, 3]


def of_groups(weights: LayerWeights) -> LayerWeights:
    """Every other head for itself and the next."""
    heads: dict[str, Any] = {
        name: value[::2] for name in ("k", "v", "k_bias", "v_bias") if (value := getattr(weights, name)) is not None
    }
    return replace(weights, **heads)


def test_devices_are_named_with_commas() -> None:
    assert devices_of("cuda:0, cuda:1") == ("cuda:0", "cuda:1") and devices_of("auto") == devices_of(
        devices_of("auto")[0]
    )
    check_device("cpu,cpu")
    with pytest.raises(UserError, match=r"--device cuda:99 cannot be used here"):
        check_device("cpu,cuda:99")


def test_several_devices_read_weights_on_demand(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    assert load_parent(str(tmp_path), device="cpu").weights is None
    assert load_parent(str(tmp_path), device="cpu,cpu").weights is not None
    assert load_model_within(tmp_path, torch.float32, "cpu,cpu").device == torch.device("cpu")


@pytest.mark.parametrize("device", ["auto", "cpu", "cpu,cpu"])
def test_weights_that_nobody_can_tell_apart_are_all_loaded(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one device; they cannot be spread."""
    saved("llama", tmp_path)
    monkeypatch.setattr("gqasearch.models.loading_on_demand._stored_names", lambda *_: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    if "," in device:
        with pytest.raises(UserError, match="cannot be spread over devices"):
            load_model_within(tmp_path, torch.float32, device, room=0)
        return
    found = load_model_within(tmp_path, torch.float32, device, room=0)
    assert on_demand(found) is None and found.device == torch.device("cpu")

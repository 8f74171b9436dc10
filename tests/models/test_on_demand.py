"""A model whose weights are read when they are needed computes what one with all of them in memory does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from gqasearch.errors import UserError
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import Mean
from gqasearch.models import Parent, layers_replaced, load_model, load_parent, tie_heads
from gqasearch.models.loading_on_demand import load_model_within
from gqasearch.models.on_demand import on_demand
from gqasearch.models.spread import decoder_layers
from tests.tiny_encoders import save_encoder, tiny_encoder
from tests.tiny_models import save_checkpoint, tiny_model

IDS = torch.arange(24).view(2, 12) + 3


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found


def resident(model: PreTrainedModel) -> list[int]:
    """The decoder layers that have weights in memory."""
    layers = decoder_layers(model)
    return [index for index, layer in enumerate(layers) if not any(p.is_meta for p in layer.parameters())]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "mixtral", "gpt_oss", "granitemoe"])
def test_equals_the_whole_model(family: str, tied: bool, tmp_path: Path) -> None:
    save_checkpoint(tiny_model(family, layers=3, tied=tied), tmp_path / "m", max_shard_size="20KB")
    whole = load_model(tmp_path / "m", torch.float32, "cpu")
    for room in (0, 40_000):
        found = load_model_within(tmp_path / "m", torch.float32, "cpu", room=room)
        assert torch.equal(logits(found), logits(whole)) and torch.equal(logits(found), logits(whole))
        assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in whole.parameters())
        if room == 0:
            assert resident(found) in ([], [2])


def test_a_model_that_fits_is_all_in_memory(tmp_path: Path) -> None:
    save_checkpoint(tiny_model("llama"), tmp_path / "m")
    assert on_demand(load_model_within(tmp_path / "m", torch.float32, "cpu")) is None


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    save_checkpoint(tiny_model("llama", dtype=torch.bfloat16), tmp_path / "m")
    found = load_model_within(tmp_path / "m", torch.bfloat16, "cpu", room=0)
    assert found.dtype == torch.bfloat16
    assert torch.equal(logits(found), logits(load_model(tmp_path / "m", torch.bfloat16, "cpu")))


def test_an_encoder(tmp_path: Path) -> None:
    save_encoder(tiny_encoder("bert"), tmp_path / "m")
    found = load_model_within(tmp_path / "m", torch.float32, "cpu", room=0)
    assert torch.equal(logits(found), logits(load_model(tmp_path / "m", torch.float32, "cpu")))


def on_demand_parent(folder: Path, layers: int = 3) -> Parent:
    save_checkpoint(tiny_model("llama", layers=layers), folder)
    return load_parent(str(folder), room=0)


def test_layers_are_replaced_and_given_back(tmp_path: Path) -> None:
    parent = on_demand_parent(tmp_path / "m")
    whole = load_parent(str(tmp_path / "m"))
    before, partition = logits(parent.model), LayerGrouping.neighbours(6, 2)
    layers = {i: tie_heads(Mean().for_layer(whole.layer(i)).merge(partition), partition, 1) for i in (0, 2)}
    with layers_replaced(whole, layers):
        wanted = logits(whole.model)
    for held in (None, 0, 2):  # read while they are replaced, or in memory before
        with parent.layer_loaded(1 if held is None else held):
            logits(parent.model)
            with layers_replaced(parent, layers):
                assert torch.equal(logits(parent.model), wanted)
        assert torch.equal(logits(parent.model), before)
    assert torch.equal(parent.layer(2).q, whole.layer(2).q)


def test_a_held_layer_stays(tmp_path: Path) -> None:
    parent = on_demand_parent(tmp_path / "m")
    with parent.layer_loaded(0), parent.layer_loaded(0):
        logits(parent.model)
        assert 0 in resident(parent.model)
    logits(parent.model)
    assert 0 not in resident(parent.model)


def test_generates_as_transformers_does(tmp_path: Path) -> None:
    parent = on_demand_parent(tmp_path / "m")
    whole = load_parent(str(tmp_path / "m"))
    assert type(parent.model).__name__ == type(whole.model).__name__ and parent.model.device == torch.device("cpu")
    found, wanted = (one.model.generate(IDS, max_new_tokens=6, do_sample=False) for one in (parent, whole))
    assert torch.equal(found, wanted)


def test_what_is_not_finite_is_refused_before_anything_runs(tmp_path: Path) -> None:
    save_checkpoint(tiny_model("llama"), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"tensor model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        load_parent(str(tmp_path / "m"), room=0)


def test_a_tied_head_that_is_stored_for_both(tmp_path: Path) -> None:
    save_checkpoint(tiny_model("llama", tied=True), tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    assert json.loads((tmp_path / "m" / "config.json").read_text())["tie_word_embeddings"]
    found = load_model_within(tmp_path / "m", torch.float32, "cpu", room=0)
    assert torch.equal(logits(found), logits(load_model(tmp_path / "m", torch.float32, "cpu")))

"""GPT-J and CodeGen: rows in their own orders, written as a stock Phi with the same logits."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gqasearch.checkpoints import write_checkpoint
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import LayerWeights, family_of, load_parent
from tests.checkpoints import uneven
from tests.checkpoints.convert import SYMMETRIC, config_of, convert, document_for, load, some_ids, stored_tensors
from tests.checkpoints.equality import note
from tests.checkpoints.phi import GROUPINGS, check_ragged, check_stock
from tests.checkpoints.test_stock import assert_same, saved
from tests.models.test_families import attend, attention_call
from tests.models.test_more_families import statistics_of
from tests.tiny_models import tiny_parent

EIGHT = {
    "stock-symmetric": Grouping.from_labels([[0, 1, 2, 3, 3, 2, 1, 0], [0, 0, 1, 1, 2, 2, 3, 3]]),
    "stock-padded": Grouping.from_labels([[0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2, 0, 0]]),
}
UNEVEN = Grouping.from_labels([[0, 1, 0, 0, 1, 0, 1, 1], [0, 1, 2, 1, 3, 1, 0, 0]])


def test_codegen_computes_its_attention_and_goes_back_unchanged() -> None:
    parent = tiny_parent("codegen", heads=8)
    for layer in range(2):
        x, wanted = attention_call(parent, layer)
        torch.testing.assert_close(attend(x, parent.layer(layer)), wanted, atol=2e-5, rtol=1e-4)
        for name, tensor in parent.family.write_layer(parent.layer(layer), layer).items():
            assert torch.equal(tensor, parent.model.get_parameter(name)), name


@pytest.mark.parametrize("family", ["gptj", "codegen"])
@pytest.mark.parametrize("layout", GROUPINGS)
def test_it_is_the_parent_with_tied_heads(family: str, layout: str, tmp_path: Path) -> None:
    if family == "gptj":
        parent, folder = saved(tmp_path, family)
        check_stock(parent, folder, tmp_path / "out", layout)
        return
    parent, folder = saved(tmp_path, family, heads=8)
    assert convert(parent, folder, tmp_path / "out", EIGHT[layout]).name == layout
    assert config_of(tmp_path / "out")["architectures"] == ["PhiForCausalLM"]
    assert_same(parent, tmp_path / "out", EIGHT[layout])


def test_layers_that_differ_make_a_ragged_phi(tmp_path: Path) -> None:
    for family, heads in (("gptj", 6), ("codegen", 8)):
        parent, folder = saved(tmp_path / family, family, heads=heads)
        if heads == 6:
            check_ragged(parent, folder, tmp_path / family / "out", "sdpa")
        else:
            assert convert(parent, folder, tmp_path / family / "out", UNEVEN).name == "ragged"
            uneven.assert_same(parent, uneven.load_trusted(tmp_path / family / "out"), UNEVEN)


@pytest.mark.parametrize("family", ["gptj", "codegen"])
def test_without_groups_it_computes_what_the_source_does(family: str, tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, family, heads=8)
    grouping = Grouping.uniform(LayerGrouping.singletons(8), 2)
    write_checkpoint(folder, tmp_path / "out", document_for(parent, grouping), parent.layer)
    again, ids = load(tmp_path / "out"), some_ids()
    with torch.no_grad():
        difference = float((again(ids).logits - parent.model(ids).logits).abs().max())
    note(parent, again, difference, identity=True)
    assert difference < 1e-5
    source, written = stored_tensors(folder), stored_tensors(tmp_path / "out")
    assert written["lm_head.bias"].any() and torch.equal(written["lm_head.bias"], source["lm_head.bias"])


def test_merges_know_the_turns_that_no_layer_is_told_of(tmp_path: Path) -> None:
    parent = tiny_parent("gptj")
    statistics = statistics_of(parent, tmp_path)[1]
    angles = torch.arange(24)[:, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)
    torch.testing.assert_close(statistics.cosines, angles.cos(), atol=1e-5, rtol=0)
    merge = make_merge("optimal").for_layer(parent.layer(1), statistics)
    single = merge.merge(LayerGrouping.singletons(6))
    for field in fields(LayerWeights):
        before, after = getattr(parent.layer(1), field.name), getattr(single, field.name)
        assert torch.equal(before, after) if isinstance(before, Tensor) else before == after
    (best,), (mean,) = (
        make_merge(name).for_layer(parent.layer(1), statistics).group_errors([(0, 3)]) for name in ("optimal", "mean")
    )
    assert 0 < best < mean


def test_masks_that_old_checkpoints_store(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "codegen", heads=8)
    tensors = load_file(folder / "model.safetensors")
    for layer in range(2):
        tensors[f"transformer.h.{layer}.attn.causal_mask"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    parent = load_parent(str(folder))
    convert(parent, folder, tmp_path / "out", EIGHT["stock-symmetric"])
    assert_same(parent, tmp_path / "out", EIGHT["stock-symmetric"])


@pytest.mark.parametrize(
    ("architecture", "field", "message"),
    [
        (
            "GPTJForCausalLM",
            {"rotary_dim": None},
            "must be an even number from 2 to the size of a head \\(16\\), got None",
        ),
        ("CodeGenForCausalLM", {"n_head": 2}, "which 2 heads are not"),
    ],
)
def test_what_cannot_be_read_is_refused(architecture: str, field: dict[str, int | None], message: str) -> None:
    config = {"architectures": [architecture], "n_embd": 64, "n_head": 4, "n_layer": 2, "rotary_dim": 8}
    family = family_of(config)
    assert family.geometry(config).rotary_dim == 8
    with pytest.raises(UserError, match=message):
        family.geometry(config | field)


def test_a_folder_without_its_output_bias_is_refused(tmp_path: Path) -> None:
    parent, folder = saved(tmp_path, "gptj")
    stored = load_file(folder / "model.safetensors")
    del stored["lm_head.bias"]
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no tensor lm_head\.bias"):
        convert(parent, folder, tmp_path / "out", SYMMETRIC)

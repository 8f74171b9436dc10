"""What every source that is written as a Phi must do."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PhiForCausalLM

from gqasearch.checkpoints import write_checkpoint
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import Parent
from tests.checkpoints.convert import PADDED, SYMMETRIC, config_of, convert, document_for, load, some_ids
from tests.checkpoints.equality import note
from tests.checkpoints.test_stock import assert_same
from tests.checkpoints.uneven import UNEVEN, load_trusted
from tests.checkpoints.uneven import assert_same as assert_same_ragged

GROUPINGS = {"stock-symmetric": SYMMETRIC, "stock-padded": PADDED}


def check_stock(parent: Parent, folder: Path, out: Path, layout: str) -> None:
    """A stock Phi, equal to the parent with tied heads."""
    assert convert(parent, folder, out, GROUPINGS[layout]).name == layout
    assert config_of(out)["architectures"] == ["PhiForCausalLM"]
    assert isinstance(load(out), PhiForCausalLM)
    assert_same(parent, out, GROUPINGS[layout])


def check_ragged(parent: Parent, folder: Path, out: Path, implementation: str) -> None:
    """The same where layers differ in their number of groups."""
    layout = convert(parent, folder, out, UNEVEN)
    assert (layout.name, layout.kv_heads_per_layer) == ("ragged", (2, 4))
    assert config_of(out)["architectures"] == ["RaggedPhiForCausalLM"]
    assert_same_ragged(parent, load_trusted(out, attn_implementation=implementation), UNEVEN)


def check_without_groups(parent: Parent, folder: Path, out: Path) -> None:
    """The source's own logits."""
    grouping = Grouping.uniform(LayerGrouping.singletons(6), 2)
    write_checkpoint(folder, out, document_for(parent, grouping), parent.layer)
    ids = some_ids()
    written = load(out)
    with torch.no_grad():
        difference = float((written(ids).logits - parent.model(ids).logits).abs().max())
    note(parent, written, difference, identity=True)
    assert difference < 1e-5

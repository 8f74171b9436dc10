"""No checkpoint that computes something else gets its name: faults of the writers, one for each thing they do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gqasearch.checkpoints import stock
from gqasearch.checkpoints.layout import Layout
from gqasearch.checkpoints.loaded_back import Computed
from gqasearch.checkpoints.shards import Shards
from gqasearch.errors import UserError
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import LayerWeights
from gqasearch.models.written_as_phi import PhiOrigins
from tests.checkpoints.convert import PADDED, SYMMETRIC
from tests.checkpoints.uneven import UNEVEN, saved, write

GROUPINGS = {"stock-symmetric": SYMMETRIC, "stock-padded": PADDED, "deci": UNEVEN, "ragged": UNEVEN}
LAYOUTS: dict[str, LayoutChoice] = {"deci": "deci", "ragged": "ragged"}

Fault = Callable[[pytest.MonkeyPatch], None]


def changed_layer(change: Callable[[LayerWeights], LayerWeights]) -> Fault:
    """A layout that puts something in the wrong place."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        original = Layout.lay_out
        patch.setattr(Layout, "lay_out", lambda self, merged, layer: change(original(self, merged, layer)))

    return fault


def changed_tensor(part: str, change: Callable[[Tensor], Tensor]) -> Fault:
    """Bytes of the source that do not arrive as they were: here they are written again, in the written file."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        original = Shards.write

        def wrong(self: Shards, folder: Path, convert: Any) -> None:
            original(self, folder, convert)
            name = next(name for name in self._source.shard_of if part in name)
            place, path = self._place(name), folder / self._source.shard_of[name]
            data = bytearray(path.read_bytes())
            values = torch.frombuffer(data[place.start : place.start + place.nbytes], dtype=torch.float32)
            values = change(values.view(place.shape)).contiguous()
            data[place.start : place.start + place.nbytes] = values.numpy().tobytes()
            path.write_bytes(data)

        patch.setattr(Shards, "write", wrong)

    return fault


def changed_config(**fields: Any) -> Fault:
    """A ``config.json`` that says something else."""

    def fault(patch: pytest.MonkeyPatch) -> None:
        original = stock._grouped_config
        patch.setattr(stock, "_grouped_config", lambda *args: {**original(*args), **fields})

    return fault


def _transposed_outputs(layer: LayerWeights) -> LayerWeights:
    return replace(layer, o=layer.o.flatten(1).unflatten(1, (layer.o.shape[2], layer.o.shape[1])).transpose(1, 2))


def _dropped_tensor(patch: pytest.MonkeyPatch) -> None:
    """The file has the bytes of ``lm_head`` under a name that nobody asks for."""
    original = Shards.write

    def wrong(self: Shards, folder: Path, convert: Any) -> None:
        original(self, folder, convert)
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes().replace(b'"lm_head.weight"', b'"lm_h3ad.weight"'))

    patch.setattr(Shards, "write", wrong)


def _swapped_in_pairs(heads: Tensor) -> Tensor:
    return heads[[1, 0, *range(2, len(heads))]]


ROPE = {"rope_type": "linear", "factor": 1.5, "rope_theta": 10000.0}
FAULTS: dict[str, Fault] = {
    "transposed o_proj": changed_layer(_transposed_outputs),
    "swapped keys": changed_layer(lambda layer: replace(layer, k=_swapped_in_pairs(layer.k))),
    "swapped values": changed_layer(lambda layer: replace(layer, v=_swapped_in_pairs(layer.v))),
    "queries in another order": changed_layer(lambda layer: replace(layer, q=layer.q.flip(0))),
    "norm of ones": changed_tensor("post_attention_layernorm", torch.ones_like),
    "another output head": changed_tensor("lm_head", lambda head: head.flip(0)),
    "no output head": _dropped_tensor,
    "another rope": changed_config(rope_scaling=ROPE, rope_parameters=ROPE),
    "another epsilon": changed_config(rms_norm_eps=0.01),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("layout", GROUPINGS)
def test_a_fault_of_the_writer_leaves_no_folder(
    layout: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, source = saved(tmp_path, "llama")
    FAULTS[fault](monkeypatch)
    with pytest.raises(UserError, match=r"does not compute what it was converted to|has no tensor lm_head"):
        write(parent, source, tmp_path / "out", GROUPINGS[layout], LAYOUTS.get(layout, "auto"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["forgotten norm", "forgotten shift", "none"])
def test_norms_that_move_into_projections(
    dtype: torch.dtype, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rounding to bfloat16 is allowed, another formula is not."""
    parent, source = saved(tmp_path, "gpt_neox", dtype=dtype)
    original = PhiOrigins._norm

    def wrong(self: PhiOrigins, *args: Any) -> tuple[Tensor, Tensor]:
        norm, shift = original(self, *args)
        return (torch.ones_like(norm), shift) if fault == "forgotten norm" else (norm, torch.zeros_like(shift))

    if fault == "none":
        write(parent, source, tmp_path / "out", SYMMETRIC, "auto")
        return
    monkeypatch.setattr(PhiOrigins, "_norm", wrong)
    with pytest.raises(UserError, match="does not compute"):
        write(parent, source, tmp_path / "out", SYMMETRIC, "auto")


def test_heads_that_are_written_otherwise_than_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One function writes the layers of both models that are compared, so it is held against the source."""
    parent, source = saved(tmp_path, "llama")
    family = type(parent.family)
    original = family.join_heads
    monkeypatch.setattr(family, "join_heads", lambda self, layer: original(self, replace(layer, v=layer.v.flip(0))))
    with pytest.raises(UserError, match="is not written as it is read"):
        write(parent, source, tmp_path / "out", SYMMETRIC, "auto")


def test_what_was_computed_is_not_left_and_not_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, source = saved(tmp_path, "llama")
    write(parent, source, tmp_path / "out", SYMMETRIC, "auto")
    assert not list((tmp_path / "out").glob(".*"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_key_value_heads"] == 3
    seen: list[str] = []
    original = Computed.parent

    def noted(self: Computed) -> Any:
        model = original(self)
        seen.extend({parameter.device.type for parameter in model.parameters()})
        return model

    monkeypatch.setattr(Computed, "parent", noted)
    write(parent, source, tmp_path / "again", SYMMETRIC, "auto")
    assert seen == ["meta"]

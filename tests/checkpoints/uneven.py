"""Groupings whose layers differ in their number of groups, and the checks that every layout of them passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gqasearch.checkpoints import Layout, write_checkpoint
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import Parent, load_parent
from gqasearch.separate_grouping import AnyGrouping
from tests.checkpoints.convert import auto_class, changed_layer, document_for, load, reference, some_ids, stored_tensors
from tests.checkpoints.equality import note
from tests.tiny_models import save_checkpoint, tiny_model

ROUNDING = 5e-5
# 2 and 4 groups of 6 heads, sizes 4, 2 and 1, 3, 1, 1; heads of a group stand apart.
UNEVEN = Grouping.from_labels([[0, 1, 0, 0, 1, 0], [0, 1, 2, 1, 3, 1]])
SOURCES: dict[str, dict[str, Any]] = {"mha": {}, "gqa": {"heads": 12, "kv_heads": 6}}


def saved(tmp_path: Path, family: str, **options: Any) -> tuple[Parent, Path]:
    folder = save_checkpoint(tiny_model(family, **options), tmp_path / "source")
    return load_parent(str(folder)), folder


def write(parent: Parent, source: Path, target: Path, grouping: AnyGrouping, layout: LayoutChoice) -> Layout:
    """Write ``source`` converted with the merge of ``changed_layer``."""
    document = document_for(parent, grouping)
    return write_checkpoint(
        source, target, document, lambda index: changed_layer(parent.layer(index), grouping, index), layout=layout
    ).layout


def load_trusted(folder: Path, **options: Any) -> PreTrainedModel:
    """As any user would. Refuses missing, unexpected or reshaped tensors."""
    model: PreTrainedModel
    model, info = auto_class(folder).from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, **options
    )
    assert not any(info.values()), info
    return model.eval()


def assert_unchanged(
    parent: Parent, source: Path, target: Path, loaded: Callable[[Path], PreTrainedModel] = load
) -> None:
    """``source`` with nothing merged, written to ``target``, has its tensors and logits, bit by bit."""
    grouping = Grouping.uniform(LayerGrouping.singletons(parent.geometry.num_kv_heads), parent.geometry.num_layers)
    write_checkpoint(source, target, document_for(parent, grouping), parent.layer)
    written, stored = stored_tensors(target), stored_tensors(source)
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in stored.items())
    again, ids = loaded(target), some_ids()
    with torch.no_grad():
        difference = float((again(ids).logits - parent.model(ids).logits).abs().max())
    note(parent, again, difference, identity=True)
    assert difference == 0


def assert_same(
    parent: Parent,
    written: PreTrainedModel,
    grouping: AnyGrouping,
    stored: torch.dtype = torch.float32,
    tolerance: float = ROUNDING,
) -> None:
    """Logits whole and of a left-padded batch, greedy tokens with a cache, and the heads that the cache holds."""
    ids = some_ids()
    mask = torch.ones_like(ids)
    mask[0, :5] = 0  # padding on the left
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "return_dict_in_generate": True}
    with torch.no_grad(), reference(parent, grouping, stored) as tied:
        expected, expected_out = tied(ids).logits, tied.generate(ids, attention_mask=mask, **options)
        padded = tied(ids, attention_mask=mask).logits
        got, got_out = written(ids).logits, written.generate(ids, attention_mask=mask, **options)
        got_padded = written(ids, attention_mask=mask).logits
    assert float(expected.std()) > 0.5
    differences = [got - expected, (got_padded - padded)[mask.bool()]]
    largest = max(float(difference.abs().max()) for difference in differences)
    if stored == torch.float32:
        note(parent, written, largest)
    assert largest <= tolerance
    assert torch.equal(got_out.sequences, expected_out.sequences)
    cached = [
        (layer.keys.shape[1], layer.values.shape[1]) for layer in got_out.past_key_values.layers if layer.is_initialized
    ]
    assert cached == [(layer.keys.num_groups, layer.values.num_groups) for layer in grouping]

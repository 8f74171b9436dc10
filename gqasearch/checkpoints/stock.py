"""Write a converted checkpoint: the source's shards with fewer K and V heads, and what belongs beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gqasearch.checkpoints.as_phi import AsPhi
from gqasearch.checkpoints.card import CardFacts, model_card
from gqasearch.checkpoints.config_json import stock_config
from gqasearch.checkpoints.folder import copy_companions
from gqasearch.checkpoints.forms import Converted, form_of
from gqasearch.checkpoints.layout import Layout
from gqasearch.checkpoints.loaded_back import CheckBlock, Computed, LoadedBack, check_loaded_back
from gqasearch.checkpoints.plan import plan_checkpoint
from gqasearch.checkpoints.remote_code import copy_modeling_file
from gqasearch.checkpoints.same_tokenizer import keep_tokenizer
from gqasearch.checkpoints.shards import Shards
from gqasearch.folders import new_folder
from gqasearch.grouping_document import GroupingDocument, write_grouping
from gqasearch.grouping_fit import check_fits
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import CheckpointTensors, Config, Family, LayerWeights, family_of, read_config
from gqasearch.models.loading import whole_model
from gqasearch.models.whole import stored_apart
from gqasearch.models.whole_norm import rows_for_groups
from gqasearch.models.written_as_phi import WrittenAsPhi
from gqasearch.separate_grouping import AnyGrouping
from gqasearch.targets import TargetName

NO_FACTS = CardFacts()


@dataclass(frozen=True)
class Written:
    """A checkpoint that was written: its layout, and how it was loaded back."""

    layout: Layout
    check: LoadedBack


@dataclass(frozen=True)
class Told:
    """What ``grouping.json`` and the model card say: the grouping, its layout, the source whose licence holds."""

    document: GroupingDocument
    layout: Layout
    source_dir: Path


def write_checkpoint(
    source_dir: Path,
    out_dir: Path,
    document: GroupingDocument,
    merged_layer: Callable[[int], LayerWeights],
    *,
    layout: LayoutChoice = "auto",
    target: TargetName | None = None,
    facts: CardFacts = NO_FACTS,
    block: CheckBlock | None = None,
    told: Told | None = None,
) -> Written:
    """Write the checkpoint in ``source_dir``, converted by ``document``'s grouping, to ``out_dir``.

    ``merged_layer(i)``: layer i after its merge, any float dtype: k, v (G, ...) in the order of the
    grouping's groups, q and o in the source's order. It is called once per layer. Shards keep their
    names, tensors their stored dtype, and all that a merge does not touch its bytes; one layer's attention
    is in memory at a time. ``grouping.json``, a model card and the modelling file that the layout needs, if any,
    are written beside the weights. ``layout``, ``target``: see ``plan_layout``. ``block``: what the checkpoint is
    loaded back and run on, see ``loaded_back``; drawn from the vocabulary if not given. ``told``: of a source that was
    made for this conversion, what is said in its place.

    ``out_dir`` appears only when complete. Raises ``UserError`` when it exists and is not empty, when the
    grouping has no such layout or belongs to a model of another shape, when the disk is full, and when what was
    written does not compute what it should.
    """
    config = read_config(source_dir)
    family = family_of(config)
    check_fits(document, family.geometry(config), fingerprint=None, joined=document.join)
    planned = plan_checkpoint(family, config, document.partitions, layout, target)
    block = (block or CheckBlock.drawn(config)).fitting(family, config)
    source, model = whole_model(source_dir)
    computed = Computed(source, family, config, document.partitions)
    noted = computed.noting(merged_layer)

    def grouped_layer(index: int) -> LayerWeights:
        return rows_for_groups(noted(index), document.partitions.layers[index].keys)

    conversion = _conversion(source, family, config, planned, grouped_layer)
    shards = Shards(conversion.tensors, conversion.shapes)
    grouped = _grouped_config(*family.written_as(config), planned, document.partitions, conversion.stored_dtype)
    if stored_apart(source, model):
        grouped["tie_word_embeddings"] = False
    with new_folder(out_dir) as folder, computed.kept_in(folder / ".computed"):
        (folder / "config.json").write_text(_json_text(grouped), encoding="utf-8")
        copy_modeling_file(grouped, folder)
        copy_companions(source_dir, folder)
        told = told or Told(document, planned, source_dir)
        write_grouping(folder / "grouping.json", told.document)
        card = model_card(told.document, told.layout, grouped, told.source_dir, facts)
        (folder / "README.md").write_text(card, encoding="utf-8")
        keep_tokenizer(source_dir, folder)  # before the work, for its errors
        shards.write(folder, conversion.convert)
        check = check_loaded_back(folder, planned.name, computed, block)
    return Written(told.layout, check)


def _conversion(
    source: CheckpointTensors,
    family: Family,
    config: Config,
    layout: Layout,
    merged_layer: Callable[[int], LayerWeights],
) -> Converted:
    """In the source's own words, or in those that it is written in."""
    if isinstance(family, WrittenAsPhi):
        return AsPhi(source, family, config, layout, merged_layer)
    return form_of(layout).conversion(source, family, config, layout, merged_layer)


def _grouped_config(
    family: Family, config: Config, layout: Layout, grouping: AnyGrouping, stored_dtype: torch.dtype
) -> Config:
    """``config.json`` in the words of the layout."""
    grouped = stock_config(family, config, layout, stored_dtype)
    return form_of(layout).config(grouped, layout, grouping, family.geometry(config))


def _json_text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"

"""A checkpoint that has some of its heads twice and computes the same, and what one made of it tells of slots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gqasearch.checkpoints.config_json import stock_config
from gqasearch.checkpoints.conversion import Conversion
from gqasearch.checkpoints.folder import copy_companions
from gqasearch.checkpoints.layout import Layout, Slots, slots
from gqasearch.checkpoints.loaded_back import ALLOWED, CheckBlock, compare, logits_of_folder
from gqasearch.checkpoints.same_tokenizer import keep_tokenizer
from gqasearch.checkpoints.shards import Shards
from gqasearch.errors import UserError
from gqasearch.folders import new_folder
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, ModelSource
from gqasearch.models.copied_heads import with_copies
from gqasearch.second_reads import SecondReads, with_second_reads


@dataclass(frozen=True)
class WithCopies(Layout):
    """Every head in its place, and the heads ``copied`` (L, n) once more after them."""

    copied: tuple[tuple[int, ...], ...] = ()

    def lay_out(self, merged: LayerWeights, layer: int) -> LayerWeights:
        return with_copies(merged, self.copied[layer])


def write_with_copies(source: ModelSource, copied: Sequence[Sequence[int]], out_dir: Path) -> ModelSource:
    """Write ``source`` with copies of the heads ``copied`` (L, n), which add nothing, to ``out_dir``.

    The folder appears only when it is complete and was found to compute the same. One layer's attention is in memory
    at a time; all else goes from file to file as bytes. Raises ``UserError`` for an architecture that has no form with
    more heads.
    """
    family, config, shape = source.family, source.config, source.geometry
    more = len(copied[0])
    heads, kv_heads = shape.num_attention_heads + more * shape.queries_per_kv, shape.num_kv_heads + more
    if family.written_as(config)[0] is not family or not family.has_grouped_form:
        raise UserError(
            f"second reads need a padded stock form of the source's own; {config['architectures'][0]} has none. "
            "Leave --fill-slots out"
        )
    places = (tuple(range(shape.num_attention_heads)),) * shape.num_layers
    own = WithCopies("stock-symmetric", places, (shape.num_kv_heads,) * shape.num_layers, "", copied=_tuples(copied))
    wider = replace(own, slots=(tuple(range(heads)),) * shape.num_layers, kv_heads_per_layer=(kv_heads,))
    conversion = Conversion(source.tensors, family, config, own, source.layer)
    with new_folder(out_dir) as folder:
        text = json.dumps(stock_config(family, config, wider, conversion.stored_dtype), indent=2, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        copy_companions(source.directory, folder)
        keep_tokenizer(source.directory, folder)
        Shards(source.tensors, conversion.shapes).write(folder, conversion.convert)
        block = CheckBlock.drawn(config).fitting(family, config)
        wanted = logits_of_folder(source.directory, False, block)
        found = logits_of_folder(folder, False, block)
        compare(found, wanted, "heads twice", ALLOWED * float(wanted.abs().max()), block)
    return ModelSource(out_dir, source.revision)


def _tuples(copied: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(heads) for heads in copied)


def filled_layout(padded: Layout, grouping: Grouping, reads: Sequence[SecondReads], queries_per_kv: int) -> Layout:
    """The layout of a conversion with second reads: a padded one whose empty slots hold the queries of copies.

    ``padded``: of the same ``grouping`` without them. A slot's query is one of the source, twice in a layer where its
    head reads twice. Raises ``UserError`` for a layout without empty slots.
    """
    if padded.name != "stock-padded":
        raise UserError(
            f"second reads fill the empty slots of a padded checkpoint; layout {padded.name} has none. Use --layout "
            "stock, or leave --fill-slots out"
        )
    layers = zip(grouping.layers, reads, strict=True)
    filled = tuple(_slots(layer, own, padded.query_heads, queries_per_kv) for layer, own in layers)
    words = (
        f"{padded.reason} Of the added ones {queries_per_kv * sum(map(len, reads))} in all layers are no zeros but "
        "second reads: queries of heads of other groups, which read this group's keys and values, too."
    )
    return replace(padded, slots=filled, reason=words)


def _slots(layer: LayerGrouping, reads: SecondReads, query_heads: int, queries_per_kv: int) -> Slots:
    """The source's query head in every slot of a layer."""
    room = query_heads // layer.num_groups // queries_per_kv
    placed = slots(with_second_reads(layer, reads), room, queries_per_kv)
    first = layer.num_heads * queries_per_kv  # query of a copy

    def source_query(query: int) -> int:
        copy, place = divmod(query - first, queries_per_kv)
        return query if query < first else reads[copy][0] * queries_per_kv + place

    return tuple(None if query is None else source_query(query) for query in placed)

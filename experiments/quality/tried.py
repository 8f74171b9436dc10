"""More that was tried: other targets, other steps, other partitions, other heads for the same slots."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeAlias

import torch

from experiments.quality.block_target import BlockDescent, BlockStreams
from experiments.quality.centred import Centred
from experiments.quality.newton import GaussNewton
from experiments.quality.reranked import Reranking
from gqasearch.calibration import LayerStatistics, Statistics, TokenBlocks
from gqasearch.calibration.copied_statistics import CopiedHeads
from gqasearch.checkpoints import write_with_copies
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter, LayerStack, tied_runner
from gqasearch.grouping import Grouping
from gqasearch.merging.second_read_choice import choose_second_reads
from gqasearch.models import ModelSource, load_parent, tie_heads
from gqasearch.refining import Descent, NoRefinement, Refinement
from gqasearch.second_reads import with_second_reads

Convert: TypeAlias = Callable[[Converter, Grouping, TokenBlocks, int], LayerStack]

SLOTS_FILLED = "descent, slots filled with second reads"
SHARES = (0.0, 0.1, 0.5)  # of what the mean of the keys counts


def tried(steps: int) -> dict[str, Convert]:
    """Name -> variant; ``steps``: of a whole descent."""
    found: dict[str, Convert] = {
        SLOTS_FILLED: slots_filled(Descent(steps=steps)),
        "descent to the stream after the MLP": to_the_block(BlockDescent(steps=steps)),
        "the same, W_o fitted to attention's part at the end": to_the_block(BlockDescent(steps=steps, refit=True)),
        "2 steps of Gauss-Newton, then a third of the descent": simply(GaussNewton(rounds=2, steps=max(1, steps // 3))),
        "partitions ranked anew by 20 steps, then descent": Reranking(steps=min(20, steps), last=Descent(steps=steps)),
    }
    for share in SHARES:
        found[f"none, keys' mean counts {share:g} in the merge"] = centred(share, NoRefinement())
    return found


def simply(refinement: Refinement) -> Convert:
    """Merge, then refine."""

    def convert(converter: Converter, grouping: Grouping, blocks: TokenBlocks, batch_blocks: int) -> LayerStack:
        return converter.runner(grouping, converter.refine(grouping, blocks, refinement, batch_blocks=batch_blocks))

    return convert


def to_the_block(inner: BlockDescent) -> Convert:
    """``inner`` on streams whose calls know what a layer stands between."""

    def convert(converter: Converter, grouping: Grouping, blocks: TokenBlocks, batch_blocks: int) -> LayerStack:
        parent, tied = converter.parent, {}
        with torch.no_grad():
            streams = BlockStreams(parent, blocks, inner.blocks_per_pass(batch_blocks))
            for index, layer in enumerate(grouping):
                streams.advance_parent(index)
                if layer.shares:
                    site = streams.site(index, layer)
                    merged = converter.merged_layer(grouping, index).to(site.dtype)
                    found = inner.refine_layer(site, merged, lambda: None)
                    tied[index] = tie_heads(found, layer, parent.geometry.queries_per_kv)
                streams.advance_converted(index, tied.get(index))
        return tied_runner(parent, tied)

    return convert


def centred(share: float, inner: Refinement) -> Convert:
    """``inner`` after a merge in which the mean of the keys counts so much."""

    def convert(converter: Converter, grouping: Grouping, blocks: TokenBlocks, batch_blocks: int) -> LayerStack:
        other = Converter(converter.parent, Centred(share=share), lambda: BoundStatistics(converter))
        return simply(inner)(other, grouping, blocks, batch_blocks)

    return convert


class BoundStatistics(Statistics):
    """The statistics that a converter's merges are bound to."""

    tokens, source, fingerprint = 0, "", ""

    def __init__(self, converter: Converter) -> None:
        self._converter = converter

    def layer(self, index: int) -> LayerStatistics:
        return self._converter.layer_merge(index).require_statistics()


def slots_filled(inner: Descent) -> Convert:
    """``inner`` on the model with second reads for all slots that a padded checkpoint of the grouping has to spare."""

    def convert(converter: Converter, grouping: Grouping, blocks: TokenBlocks, batch_blocks: int) -> LayerStack:
        parent, room = converter.parent, max(size for layer in grouping for size in layer.sizes)
        if len(set(grouping.group_counts)) > 1 or parent.directory is None:
            raise UserError("slots are filled where all layers have one number of groups, of a model in files")
        reads = [choose_second_reads(converter.layer_merge(i), layer, room) for i, layer in enumerate(grouping)]
        copied = [[head for head, _ in own] for own in reads]
        folder = Path(mkdtemp(prefix="gqasearch-quality-"))
        wider = load_parent(
            str(write_with_copies(ModelSource(parent.directory, ""), copied, folder / "model").directory)
        )
        weakref.finalize(wider.model, shutil.rmtree, folder, ignore_errors=True)  # a large model is read as it runs
        statistics = CopiedHeads(BoundStatistics(converter), copied, parent.geometry.queries_per_kv)
        filled = Grouping(tuple(map(with_second_reads, grouping, reads)))
        other = Converter(wider, converter.merge, lambda: statistics)
        return simply(inner)(other, filled, blocks, batch_blocks)

    return convert

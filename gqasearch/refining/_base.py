"""The contract of a refinement: from merged layers to layers fitted to the parent's residual stream.

    r_parent: the parent's residual stream just after the attention of a layer
    h:        what enters that layer in the converted model, whose layers below are refined already

A layer is fitted so that h + attention(h) comes close to r_parent: the errors of the layers below are
corrected and not added up. No language-model loss is involved, and no layer above is looked at.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch

from gqasearch.calibration import TokenBlocks, no_progress
from gqasearch.models import OBJECTIVES, LayerWeights, Objective, Parent, tie_heads
from gqasearch.refining.layer_site import LayerSite, compute_dtype
from gqasearch.refining.refined_layers import RefinedLayers, copied
from gqasearch.refining.streams import Streams
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyGrouping, AnyLayer, changed_layers


@dataclass(frozen=True)
class Refinement(ABC):
    """Parameters of a refinement are the fields of its dataclass.

    ``name``: how it is asked for; ``reference``: URL of the paper, "" where there is none; ``summary``:
    one line for ``gqasearch ls refinements``; ``objectives``: what models may predict that it takes.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    summary: ClassVar[str]
    objectives: ClassVar[tuple[Objective, ...]] = OBJECTIVES

    @property
    def reads_text(self) -> bool:
        """Whether it is fitted on the calibration text."""
        return True

    @property
    def fits_whole(self) -> bool:
        """Whether layers in which nothing is shared are fitted, too, where something below or the cache changed."""
        return False

    @abstractmethod
    def total_steps(self, grouping: AnyGrouping, kv: KVFormat | None = None) -> int:
        """How many steps ``progress`` will count to; ``kv`` as in ``refine``."""

    @abstractmethod
    def refine(
        self,
        parent: Parent,
        grouping: AnyGrouping,
        merged_layer: Callable[[int], LayerWeights],
        blocks: TokenBlocks,
        *,
        batch_blocks: int = 8,
        folder: Path | None = None,
        kv: KVFormat | None = None,
        progress: Callable[[int, int], None] = no_progress,
    ) -> Mapping[int, LayerWeights]:
        """Every layer that was changed, by index: k, v (G, ...), in float32 or the parent's dtype if wider.

        ``merged_layer(i)``: layer i after its merge. Layers in which nothing is shared stay the parent's, also above
        layers that are not (but see ``fits_whole``). ``batch_blocks``: blocks per forward pass. ``folder``: where
        refined layers are kept, and what does not fit into memory. What an earlier process with the same arguments left
        there is gone on from. All is in memory if it is not given. ``kv``: layers are fitted as they compute with a
        cache that is rounded so, in all of the model; None for not.
        """

    def after_basis(self) -> Refinement | None:
        """What is fitted, with a rounded cache, once the basis for it is chosen; None for nothing."""
        return None

    def parameters(self) -> dict[str, Any]:
        """Field name -> value, as written to grouping.json."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class LayerwiseRefinement(Refinement):
    """Refines the grouped layers one after another, from the input upwards."""

    @property
    @abstractmethod
    def layer_steps(self) -> int:
        """How often ``refine_layer`` calls ``step``."""

    @abstractmethod
    def refine_layer(self, site: LayerSite, merged: LayerWeights, step: Callable[[], None]) -> LayerWeights:
        """One layer, better by ``site``'s criterion or as it was; weights in ``site.dtype`` on both sides."""

    def blocks_per_pass(self, batch_blocks: int) -> int:
        """Blocks that pass through the model together."""
        return batch_blocks

    def fitted_layers(self, grouping: AnyGrouping, kv: KVFormat | None) -> list[int]:
        """The layers that ``refine_layer`` is called for, in order."""
        changed = changed_layers(grouping)
        if not self.fits_whole:
            return changed
        first = 0 if kv is not None else changed[0] if changed else len(grouping)
        return list(range(first, len(grouping)))

    def total_steps(self, grouping: AnyGrouping, kv: KVFormat | None = None) -> int:
        grouped = self.fitted_layers(grouping, kv)
        return (grouped[-1] + 1 if grouped else 0) + len(grouped) * self.layer_steps

    def refine(
        self,
        parent: Parent,
        grouping: AnyGrouping,
        merged_layer: Callable[[int], LayerWeights],
        blocks: TokenBlocks,
        *,
        batch_blocks: int = 8,
        folder: Path | None = None,
        kv: KVFormat | None = None,
        progress: Callable[[int, int], None] = no_progress,
    ) -> Mapping[int, LayerWeights]:
        grouped = self.fitted_layers(grouping, kv)
        if folder is None:
            with TemporaryDirectory(prefix="gqasearch-refine-") as temporary:
                kept = self.refine(
                    *(parent, grouping, merged_layer, blocks),
                    batch_blocks=batch_blocks,
                    folder=Path(temporary),
                    kv=kv,
                    progress=progress,
                )
                return {index: copied(layer) for index, layer in kept.items()}
        found = RefinedLayers(folder / "layers")
        if not grouped:
            return found
        counter = Counter(self.total_steps(grouping, kv), progress)
        with torch.no_grad():
            if all(index in found for index in grouped):  # by an earlier process: no text need pass them again
                counter.skip(grouped[-1] + 1 + len(grouped) * self.layer_steps)
                return self.finish(parent, grouping, found, blocks, folder, counter)
            streams = Streams(parent, blocks, self.blocks_per_pass(batch_blocks), folder / "streams", kv)
            known = next((index for index in grouped if index not in found), grouped[-1] + 1)
            streams.resume(known, grouped[0])
            counter.skip(sum(1 + self.layer_steps * (index in grouped) for index in range(streams.level)))
            for index in range(streams.level, grouped[-1] + 1):
                with parent.layer_loaded(index):
                    fitted = index in grouped
                    self._pass_layer(streams, index, grouping.layers[index], fitted, merged_layer, found, counter)
            shutil.rmtree(folder / "streams", ignore_errors=True)
            return self.finish(parent, grouping, found, blocks, folder, counter)

    def finish(
        self,
        parent: Parent,
        grouping: AnyGrouping,
        layers: Mapping[int, LayerWeights],
        blocks: TokenBlocks,
        folder: Path,
        counter: Counter,
    ) -> Mapping[int, LayerWeights]:
        """What becomes of the refined ``layers`` when all are there; ``folder`` and ``counter``: see ``refine``."""
        return layers

    def _pass_layer(
        self,
        streams: Streams,
        index: int,
        layer: AnyLayer,
        fitted: bool,
        merged_layer: Callable[[int], LayerWeights],
        found: RefinedLayers,
        counter: Counter,
    ) -> None:
        """Refine one layer where it is to be ``fitted`` and is not yet, and move both streams past it."""
        parent = streams.parent
        streams.advance_parent(index)
        tied: LayerWeights | None = None
        if fitted:
            if index in found:
                counter.skip(self.layer_steps)
            else:
                site = streams.site(index, layer)
                merged = merged_layer(index).to(compute_dtype(parent))
                found.put(index, self.refine_layer(site, merged, counter.step))
                site.forget()
            tied = tie_heads(found[index], layer, parent.geometry.queries_per_kv)
        elif streams.kv is not None:  # in another basis, so it rounds otherwise than the parent's own
            tied = tie_heads(merged_layer(index), layer, parent.geometry.queries_per_kv)
        streams.advance_converted(index, tied)
        counter.step()


class Counter:
    """Steps done, told to ``progress``."""

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def step(self) -> None:
        self.skip(1)

    def skip(self, steps: int) -> None:
        """Steps that an earlier process did."""
        self.done += steps
        if steps:
            self.progress(self.done, self.total)

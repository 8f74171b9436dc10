"""KL of groupings with rounded caches, on the search text: in a basis for the format, W_o of every layer refitted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch

from gqasearch.basis import CLOSED, balanced_layer
from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import CandidateState, Converter, ParentLayers, ParentLogProbs, PrefixLosses
from gqasearch.models import LayerWeights, tie_heads
from gqasearch.models.attention_inputs import attention_noted
from gqasearch.refining import LayersAlone, Outputs
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyGrouping, AnyLayer
from gqasearch.steps.kv_bytes.byte_options import is_rounded
from gqasearch.steps.workspace import Workspace

REFIT_TOKENS = 4096  # of the calibration text
BASIS_CALLS = 1  # of them, each some blocks of text: the closed form has d^2 unknowns a head
BATCH_TOKENS = 1024


class FormatLosses:
    """``folder``: where losses are kept for a process that goes on, those of every format by themselves.

    Texts are read and the parent is run once, for all formats.
    """

    def __init__(self, work: Workspace, folder: Path) -> None:
        self._work, self._folder = work, folder
        self._blocks: TokenBlocks = work.blocks("search")
        self._size = max(1, BATCH_TOKENS // self._blocks.ids.shape[1])
        self._reference = ParentLogProbs.compute(ParentLayers(work.parent), self._blocks, batch_blocks=self._size)
        self._converter = Converter(work.parent, work.merge, lambda: work.statistics)
        self._refits = work.refinement.reads_text
        self._formats: dict[str, PrefixLosses] = {}
        self.batch_tokens = [int(mask.sum()) for _, mask in self._blocks.batches(self._size)]

    @cached_property
    def _alone(self) -> LayersAlone:
        """Every layer where the parent's stream enters it; not read where nothing is rounded or refitted."""
        work = self._work
        blocks = work.blocks("calibration").first(REFIT_TOKENS)
        return LayersAlone(work.parent, blocks, Outputs.quick(work.refinement))

    def __call__(self, kv: KVFormat, grouping: AnyGrouping, batches: Sequence[int]) -> float:
        """Nats per token on these batches, with the cache in the format ``kv``."""
        return float(self._of(kv)([grouping], batches)[0])

    def _of(self, kv: KVFormat) -> PrefixLosses:
        if kv.name not in self._formats:
            self._formats = {kv.name: self._losses(kv)}  # hidden states of one format are of no use to another
        return self._formats[kv.name]

    def _losses(self, kv: KVFormat) -> PrefixLosses:
        queries = self._work.parent.geometry.queries_per_kv

        def tied(index: int, layer: AnyLayer) -> LayerWeights:
            found = self._in_basis(index, layer, self._converter.merged(index, layer), kv)
            if self._refits:
                found = self._alone.rounded(kv).refine(index, layer, found)
            return tie_heads(found, layer, queries)

        state = CandidateState(self._folder / kv.name.replace("/", "+"))
        parent, blocks = self._work.parent, self._blocks
        return PrefixLosses(
            parent, tied, blocks, self._size, self._reference.summed_kl, state=state, kv=kv, whole_too=is_rounded(kv)
        )

    def _in_basis(self, index: int, layer: AnyLayer, merged: LayerWeights, kv: KVFormat) -> LayerWeights:
        """The merged layer in the best closed form of a basis, found on what enters it in the parent.

        Without one, formats of few bits look far worse beside fewer heads than the run will make them.
        """
        if not is_rounded(kv):
            return merged
        site = self._alone.site(index, layer)
        wide, calls = merged.to(site.dtype), list(islice(site.calls, BASIS_CALLS))
        with torch.no_grad(), attention_noted(site.parent, index) as given:
            for call in calls:
                site.attend(wide, call)
        masks = [call.mask for call in calls]
        return balanced_layer(site.parent, wide, layer, given, masks, kv, CLOSED)

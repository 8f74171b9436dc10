"""KL of groupings with rounded caches, on the search text, W_o of every layer refitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import CandidateState, Converter, ParentLayers, ParentLogProbs, PrefixLosses
from gqasearch.models import LayerWeights, tie_heads
from gqasearch.refining import LayersAlone, Outputs
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyGrouping, AnyLayer
from gqasearch.steps.workspace import Workspace

REFIT_TOKENS = 4096  # of the calibration text
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
        text = work.blocks("calibration").first(REFIT_TOKENS) if work.refinement.reads_text else None
        self._alone = None if text is None else LayersAlone(work.parent, text, Outputs())
        self._formats: dict[str, PrefixLosses] = {}
        self.batch_tokens = [int(mask.sum()) for _, mask in self._blocks.batches(self._size)]

    def __call__(self, kv: KVFormat, grouping: AnyGrouping, batches: Sequence[int]) -> float:
        """Nats per token on these batches, with the cache in the format ``kv``."""
        return float(self._of(kv)([grouping], batches)[0])

    def _of(self, kv: KVFormat) -> PrefixLosses:
        if kv.name not in self._formats:
            self._formats = {kv.name: self._losses(kv)}  # hidden states of one format are of no use to another
        return self._formats[kv.name]

    def _losses(self, kv: KVFormat) -> PrefixLosses:
        queries, converter = self._work.parent.geometry.queries_per_kv, self._converter
        alone = None if self._alone is None else self._alone.rounded(kv)

        def tied(index: int, layer: AnyLayer) -> LayerWeights:
            merged = converter.merged(index, layer)
            return tie_heads(merged if alone is None else alone.refine(index, layer, merged), layer, queries)

        state = CandidateState(self._folder / kv.name.replace("/", "+"))
        parent, blocks = self._work.parent, self._blocks
        return PrefixLosses(parent, tied, blocks, self._size, self._reference.summed_kl, state=state, kv=kv)

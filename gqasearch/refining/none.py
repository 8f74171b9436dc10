"""None: the layers stay as the merge made them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gqasearch.calibration import TokenBlocks, no_progress
from gqasearch.models import LayerWeights, Parent
from gqasearch.refining._base import Refinement
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import AnyGrouping


@dataclass(frozen=True)
class NoRefinement(Refinement):
    """Changes nothing and reads no text."""

    name: ClassVar[str] = "none"
    reference: ClassVar[str] = ""
    summary: ClassVar[str] = "nothing: the layers stay as the merge made them"

    @property
    def reads_text(self) -> bool:
        return False

    def total_steps(self, grouping: AnyGrouping, kv: KVFormat | None = None) -> int:
        return 0

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
    ) -> dict[int, LayerWeights]:
        return {}

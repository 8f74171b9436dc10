"""Text to token blocks to statistics: one streaming pass, cached by fingerprint."""

from gqasearch.calibration.ascent import Ascent
from gqasearch.calibration.blocks import TokenBlocks, make_blocks, shortage
from gqasearch.calibration.cache import CachedStatistics, load_or_collect, statistics_key
from gqasearch.calibration.collect import collect, no_progress
from gqasearch.calibration.hidden_states import TensorFiles
from gqasearch.calibration.large_file import FilePart, stream_documents, stream_whole
from gqasearch.calibration.leakage import benchmark_named, overlap
from gqasearch.calibration.pieces import Text
from gqasearch.calibration.predictions import NO_TARGET, Targets
from gqasearch.calibration.statistics import LayerStatistics, Statistics
from gqasearch.calibration.text import load_documents, load_whole

__all__ = [
    "NO_TARGET",
    "Ascent",
    "CachedStatistics",
    "FilePart",
    "LayerStatistics",
    "Statistics",
    "Targets",
    "TensorFiles",
    "Text",
    "TokenBlocks",
    "benchmark_named",
    "collect",
    "load_documents",
    "load_or_collect",
    "load_whole",
    "make_blocks",
    "no_progress",
    "overlap",
    "shortage",
    "statistics_key",
    "stream_documents",
    "stream_whole",
]

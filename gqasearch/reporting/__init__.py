"""Tables, figures, progress, and one self-contained HTML page.

Takes plain data (:mod:`gqasearch.reporting.data`) and knows nothing of models or of how a run is made.
``tables``, ``plots`` and ``html`` are imported by whoever needs them: pandas and matplotlib take a second to load.
"""

from gqasearch.reporting.data import (
    History,
    HistoryPoint,
    LayerPicture,
    Measurement,
    MethodResult,
    ParentResult,
    ParetoFront,
    ReportData,
    Similarity,
    TextUse,
)
from gqasearch.reporting.progress_bars import SearchProgress

__all__ = [
    "History",
    "HistoryPoint",
    "LayerPicture",
    "Measurement",
    "MethodResult",
    "ParentResult",
    "ParetoFront",
    "ReportData",
    "SearchProgress",
    "Similarity",
    "TextUse",
]

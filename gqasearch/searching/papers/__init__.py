"""The two papers that this project starts from, as they search: QCQA and AsymGQA."""

from gqasearch.searching.papers.asymgqa import AsymGQA
from gqasearch.searching.papers.qcqa import QCQAArbitrary, QCQAEqual

__all__ = ["AsymGQA", "QCQAArbitrary", "QCQAEqual"]

"""The two papers that this project starts from, as they search: QCQA and AsymGQA."""

from gqasearch.search.papers.asymgqa import AsymGQA
from gqasearch.search.papers.qcqa import QCQAArbitrary, QCQAEqual

__all__ = ["AsymGQA", "QCQAArbitrary", "QCQAEqual"]

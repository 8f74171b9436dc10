"""gqasearch: turn a multi-head attention checkpoint into a grouped-query one that keeps its quality."""

__version__ = "0.1.0"

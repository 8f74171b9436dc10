"""Evolution of groupings, and the local descents inside it."""

from gqasearch.search.evolution.evolution import Evolution

__all__ = ["Evolution"]

"""Evolution of groupings, and the local descents inside it."""

from gqasearch.searching.evolution.evolution import Evolution

__all__ = ["Evolution"]

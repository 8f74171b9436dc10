"""Whole-model evolution on an objective that runs the model: many candidates on few tokens, few on many."""

from gqasearch.searching.staged.staged import Staged

__all__ = ["Staged"]

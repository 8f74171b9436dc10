"""The free basis of keys and values, chosen so that a rounded cache hurts least: the same model in full precision."""

from gqasearch.basis.balance import Balance, balanced_layers

__all__ = ["Balance", "balanced_layers"]

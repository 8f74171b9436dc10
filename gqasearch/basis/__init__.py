"""The free basis of keys and values, chosen so that a rounded cache hurts least: the same model in full precision."""

from gqasearch.basis.balance import CLOSED, Balance, balanced_layer, balanced_layers

__all__ = ["CLOSED", "Balance", "balanced_layer", "balanced_layers"]

"""Fine-tuning after conversion, distilled from the parent."""

from gqasearch.healing.grouped_parent import GroupedParent
from gqasearch.healing.progressive import ProgressiveParent

__all__ = ["GroupedParent", "ProgressiveParent"]

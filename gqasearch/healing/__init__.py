"""Fine-tuning after conversion, distilled from the parent."""

from gqasearch.healing.grouped_parent import GroupedParent
from gqasearch.healing.progressive import ProgressiveParent
from gqasearch.healing.short import ShortHealing, healed_runner

__all__ = ["GroupedParent", "ProgressiveParent", "ShortHealing", "healed_runner"]

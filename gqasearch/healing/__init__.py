"""Fine-tuning after conversion: a grouped model learns from its parent for a while."""

from gqasearch.heal_config import HealConfig, build_heal_config
from gqasearch.healing.progressive import ProgressiveParent
from gqasearch.healing.short import ShortHealing, healed_runner
from gqasearch.refining.grouped_parent import GroupedParent

__all__ = [
    "GroupedParent",
    "HealConfig",
    "ProgressiveParent",
    "ShortHealing",
    "build_heal_config",
    "healed_runner",
]

"""Healing: a converted checkpoint is trained further, measured, and told of."""

from gqasearch.run.heal.heal import HEALED, heal
from gqasearch.run.heal.heal_folder import HealFolder, is_heal_folder
from gqasearch.run.heal.work import START

__all__ = ["HEALED", "START", "HealFolder", "heal", "is_heal_folder"]

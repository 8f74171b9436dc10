"""Fine-tuning after conversion: a grouped model learns from its parent for a while."""

from gqasearch.healing.config import HealConfig, build_heal_config

__all__ = ["HealConfig", "build_heal_config"]

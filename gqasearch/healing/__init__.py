"""Fine-tuning after conversion: what the merge lost is recovered from the parent."""

from gqasearch.healing.packing import PackedBlocks, pack, training_order
from gqasearch.healing.text import HealingTexts, TextPart, healing_texts

__all__ = ["HealingTexts", "PackedBlocks", "TextPart", "healing_texts", "pack", "training_order"]

"""One budget in bytes: how many heads, and how they are rounded, decided together before anything else."""

from gqasearch.steps.kv_bytes.byte_options import Option, options_of
from gqasearch.steps.kv_bytes.decide import DecisionFiles, decide, settled
from gqasearch.steps.kv_bytes.words import decision_table, decision_words, options_notes

__all__ = [
    "DecisionFiles",
    "Option",
    "decide",
    "decision_table",
    "decision_words",
    "options_notes",
    "options_of",
    "settled",
]

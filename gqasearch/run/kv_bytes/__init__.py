"""One budget in bytes: how many heads, and how they are rounded, decided together before anything else."""

from gqasearch.run.kv_bytes.byte_options import Option, options_of
from gqasearch.run.kv_bytes.decide import decide, settled
from gqasearch.run.kv_bytes.words import decision_table, decision_words, options_notes

__all__ = ["Option", "decide", "decision_table", "decision_words", "options_notes", "options_of", "settled"]

"""Ready sweeps with their results, and the proof that a study survives the death of its workers."""

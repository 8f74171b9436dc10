"""Which settings texts, a model, its statistics and a prepared fitness each depend on, those before it included."""

from __future__ import annotations

TEXT = (
    *("model", "revision", "join", "block_length", "calibration_text", "evaluation_text", "evaluation_part"),
    *("calibration_tokens", "search_tokens", "evaluation_tokens", "masked_blocks"),
)
SOURCE = ("model", "revision", "join")
MODEL = (*SOURCE, "dtype", "device")
STATISTICS = (*MODEL, "calibration_text", "calibration_tokens", "block_length", "masked_blocks")
FITNESS = (
    *(*STATISTICS, "search_tokens", "separate_kv"),
    *("merge", "merge_parameters", "refine", "refine_parameters"),
)

"""Records of ``metrics.json``, and how a model card tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gqasearch.checkpoints import MetricRow
from gqasearch.evaluation import AnyQuality, KVSize, mean_interval
from gqasearch.models import Objective
from gqasearch.reporting.tables import stored_words

# Figures that are a distance to the parent, of which every record has one: key -> in words.
DISTANCES = {"kl": "KL", "hidden_error": "hidden-state error"}


def quality_record(quality: AnyQuality, kv: KVSize, parameters: int, seed: int) -> dict[str, Any]:
    """One row of metrics.json; ``kl_interval``: 95% bootstrap interval of the KL over blocks.

    Of a model without a head the same of ``hidden_error``.
    """
    distance, per_block = quality.by_block()
    return {
        **quality.figures(),
        f"{distance}_interval": list(mean_interval(per_block, np.random.default_rng(seed))),
        "kv_bytes_per_token": kv.stored,
        "kv_value_bits": kv.value_bits,
        "kv_bytes_by_format": kv.by_format(),
        "parameters": parameters,
        f"{distance}_blocks": list(per_block),
    }


def distance_of(record: Mapping[str, Any]) -> str:
    """Which of ``DISTANCES`` a record of ``quality_record`` has."""
    return next(name for name in DISTANCES if name in record)


def card_rows(parent: Mapping[str, Any], mine: Mapping[str, Any], objective: Objective) -> tuple[MetricRow, ...]:
    """What a model card tells of two records of ``quality_record``."""
    masked, cache = objective == "masked", "KV cache" if objective == "next-token" else "keys and values computed"
    words = {
        "perplexity": "pseudo-perplexity" if masked else "perplexity",
        "kl": f"KL to the parent, nats per {'masked ' if masked else ''}token",
        "hidden_error": "squared error of hidden states, relative to the parent's",
        "kv_bytes_per_token": f"{cache}, bytes per token {stored_words(mine)}",
        "parameters": "parameters",
    }
    rows = [MetricRow(words[name], parent[name], mine[name]) for name in words if name in mine]
    for kind, cosine in mine.get("embedding_cosine", {}).items():
        rows.insert(
            len(rows) - 2, MetricRow(f"cosine of sentence embeddings to the parent's, {kind} text", 1.0, cosine)
        )
    before, after = (record.get("kv_bytes_by_format", {}) for record in (parent, mine))
    rows += [
        MetricRow(f"KV cache in {name}, bytes per token", before[name], after[name]) for name in before if name in after
    ]
    return tuple(rows)


def measured_words(metrics: Mapping[str, Any]) -> str:
    """On what the figures of ``metrics.json`` were measured."""
    return f"{metrics['texts']['reported']['source']}; {metrics['targets']} targets. {metrics['convention']}"

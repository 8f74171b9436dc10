"""A model as the grouping JSON names it."""

from __future__ import annotations

from gqasearch.grouping_document import ModelRecord
from gqasearch.models.parent import Parent
from gqasearch.models.source import ModelSource


def model_record(id: str, model: Parent | ModelSource) -> ModelRecord:
    """``id``: what the user calls it. The weights are read for their fingerprint."""
    geometry = model.geometry
    return ModelRecord(
        id=id,
        architecture=model.config["architectures"][0],
        num_layers=geometry.num_layers,
        num_attention_heads=geometry.num_attention_heads,
        num_key_value_heads=geometry.num_kv_heads,
        head_dim=geometry.head_dim,
        revision=model.revision,
        fingerprint=model.fingerprint,
    )

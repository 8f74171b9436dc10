"""The parent and a converted checkpoint with rounded KV caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from gqasearch.errors import UserError
from gqasearch.evaluation import LayerStack, ParentLayers, RoundedLayers, cached_kv_heads, count_parameters
from gqasearch.rounding import KVFormat
from gqasearch.run.evaluate import (
    CONVERTED,
    Subject,
    checkpoint_layers,
    checkpoint_model,
    measure,
    stored_kv_bytes,
)
from gqasearch.run.workspace import Workspace

PARENT = "parent"


@dataclass(frozen=True)
class _Measured:
    """A model that runs by ``layers``; ``kv_heads``: that it caches, all layers' together."""

    layers: ParentLayers
    kv_heads: int
    parameters: int

    @classmethod
    def of(cls, model: PreTrainedModel, layers: LayerStack) -> _Measured:
        if not isinstance(layers, ParentLayers):
            raise UserError(
                f"{type(model).__name__} runs on code that gqasearch does not know; its cache cannot be rounded"
            )
        return cls(layers, sum(cached_kv_heads(model)), count_parameters(model))

    def rounded(self, kv: KVFormat, context: int) -> Subject:
        """Raises ``UserError`` for a head size that the format does not take."""
        head_dim = self.layers.parent.geometry.head_dim
        kv.check(head_dim)
        return Subject(
            RoundedLayers(self.layers, kv), kv.bytes_per_token(self.kv_heads, head_dim, context), self.parameters
        )


def measure_rounded(
    work: Workspace, directory: Path | None, formats: Sequence[KVFormat], *, trust_remote_code: bool = False
) -> dict[str, Any]:
    """What ``measure`` gives for the parent and the checkpoint in ``directory``, if there is one, and ``rounded``.

    That is a list: for every format a record of each model, with its ``format``, ``model`` and ``kv_share``, its KV
    bytes over those of the parent in 16 bits; KL is to the parent whose cache is not rounded. Raises ``UserError``
    for encoders, which cache nothing, for head sizes that a format does not take, and as ``checkpoint_model`` does.
    """
    source = work.source
    if source.family.objective != "next-token":
        raise UserError(f"{source.directory} is an encoder: it has no KV cache that could be rounded")
    parent = work.unjoined.parent
    models = {PARENT: _Measured.of(parent.model, ParentLayers(parent))}
    subjects: dict[str, Subject] = {}
    if directory is not None:
        model = checkpoint_model(work, directory, trust_remote_code=trust_remote_code)
        own = models[CONVERTED] = _Measured.of(model, checkpoint_layers(source, directory, model))
        stored = stored_kv_bytes(source.family, source.geometry.num_layers, model, directory)
        subjects[CONVERTED] = Subject(own.layers, stored, own.parameters)
    asked = {
        (kv.name, name): own.rounded(kv, work.config.block_length) for kv in formats for name, own in models.items()
    }
    subjects |= {f"{model} {kv}": subject for (kv, model), subject in asked.items()}
    metrics = measure(work, subjects, is_run=False)
    whole = models[PARENT].kv_heads * 2 * parent.geometry.head_dim * 2
    results = metrics["results"]
    metrics["rounded"] = [
        {"format": kv, "model": model, **_with_share(results.pop(f"{model} {kv}"), whole)} for kv, model in asked
    ]
    for record in (metrics["parent"], *results.values()):
        record |= _with_share(record, whole)
    return metrics


def _with_share(record: dict[str, Any], whole: int) -> dict[str, Any]:
    return {**record, "kv_share": record["kv_bytes_per_token"] / whole}

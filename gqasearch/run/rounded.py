"""The parent and a converted checkpoint with rounded KV caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from gqasearch.errors import UserError
from gqasearch.evaluation import KVSize, LayerStack, ParentLayers, RoundedLayers, count_parameters
from gqasearch.rounding import KVFormat
from gqasearch.run.evaluate import (
    CONVERTED,
    Subject,
    checkpoint_layers,
    checkpoint_model,
    kv_size,
    measure,
)
from gqasearch.run.workspace import Workspace

PARENT = "parent"


@dataclass(frozen=True)
class _Measured:
    """A model that runs by ``layers``."""

    layers: ParentLayers
    kv: KVSize
    parameters: int

    @classmethod
    def of(cls, model: PreTrainedModel, layers: LayerStack, kv: KVSize) -> _Measured:
        if not isinstance(layers, ParentLayers):
            raise UserError(f"{type(model).__name__} runs on code of others, whose KV cache cannot be rounded here")
        return cls(layers, kv, count_parameters(model))

    def rounded(self, kv: KVFormat, context: int) -> Subject:
        size = kv.bytes_per_token(*self.kv.heads, self.kv.head_dim, context)
        return Subject(RoundedLayers(self.layers, kv), replace(self.kv, stored=size), self.parameters)


def measure_rounded(
    work: Workspace, directory: Path | None, formats: Sequence[KVFormat], *, trust_remote_code: bool = False
) -> dict[str, Any]:
    """What ``measure`` gives for the parent and the checkpoint in ``directory``, if there is one, and ``rounded``.

    That is a list: for every format a record of each model, with its ``format``, ``model`` and ``kv_share``, its KV
    bytes over those of the parent in 16 bits; KL is to the parent whose cache is not rounded. Raises ``UserError``
    for encoders, which cache nothing, for formats that take the heads of neither, and as ``checkpoint_model`` does.
    """
    source = work.source
    if source.family.objective != "next-token":
        raise UserError(f"{source.directory} is an encoder: it has no KV cache that could be rounded")
    if directory is None:  # else the sizes of heads may differ
        for kv in formats:
            kv.check(source.geometry.head_dim)  # before anything large is read
    parent, context = work.unjoined.parent, work.config.block_length
    own = kv_size(work.unjoined.source, parent.model, parent.directory)
    models = {PARENT: _Measured.of(parent.model, ParentLayers(parent), own)}
    subjects: dict[str, Subject] = {}
    if directory is not None:
        model = checkpoint_model(work, directory, trust_remote_code=trust_remote_code)
        layers = checkpoint_layers(source, directory, model)
        made = models[CONVERTED] = _Measured.of(model, layers, kv_size(source, model, directory))
        subjects[CONVERTED] = Subject(made.layers, made.kv, made.parameters)
    asked = {(kv.name, name): models[name].rounded(kv, context) for kv in formats for name in _taking(kv, models)}
    subjects |= {f"{name} {cache}": subject for (cache, name), subject in asked.items()}
    metrics = measure(work, subjects, is_run=False)
    whole = 2 * sum(own.heads) * own.head_dim
    results = metrics["results"]
    metrics["rounded"] = []
    for cache, name in asked:
        record = results.pop(f"{name} {cache}")
        del record["kv_bytes_by_format"]  # of the model
        metrics["rounded"].append({"format": cache, "model": name, **_with_share(record, whole)})
    for record in (metrics["parent"], *results.values()):
        record |= _with_share(record, whole)
    return metrics


def _taking(kv: KVFormat, models: Mapping[str, _Measured]) -> list[str]:
    """Those whose heads the format takes, as joined heads are of another size; raises ``UserError`` for none."""
    taking = [name for name, one in models.items() if kv.refusal(one.kv.head_dim) is None]
    if not taking:
        kv.check(models[PARENT].kv.head_dim)
    return taking


def _with_share(record: dict[str, Any], whole: int) -> dict[str, Any]:
    return {**record, "kv_share": record["kv_bytes_per_token"] / whole}

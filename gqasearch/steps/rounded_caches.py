"""The parent and a converted checkpoint with rounded KV caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gqasearch.errors import UserError
from gqasearch.evaluation import ClimbState, ParentLayers, RoundedLayers, count_parameters
from gqasearch.models.attention_inputs import require_noted
from gqasearch.rounding import KVFormat, parse_format
from gqasearch.steps.measure import CONVERTED, Subject, checkpoint_layers, checkpoint_model, kv_size, measure
from gqasearch.steps.workspace import Workspace

PARENT = "parent"


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
    subjects: dict[str, Subject] = {}
    if directory is not None:
        model = checkpoint_model(work, directory, trust_remote_code=trust_remote_code)
        layers = checkpoint_layers(source, directory, model)
        subjects[CONVERTED] = Subject(layers, kv_size(source, model, directory), count_parameters(model))
    rounded = rounded_subjects(work, subjects, formats)
    metrics = measure(work, {**subjects, **rounded.subjects}, is_run=False)
    rounded.tell(metrics)
    return metrics


def measure_run(
    work: Workspace,
    subjects: Mapping[str, Subject],
    state: Callable[[Mapping[str, Subject]], ClimbState] | None = None,
) -> dict[str, Any]:
    """What ``measure`` gives for ``subjects``, and ``rounded`` as above where the run is for a format, ``kv_bits``.

    ``state``: what is known so far of all that are measured.
    """
    formats = [] if work.config.kv_bits is None else [parse_format(work.config.kv_bits)]
    rounded = rounded_subjects(work, subjects, formats)
    whole = {**subjects, **rounded.subjects}
    metrics = measure(work, whole, state=None if state is None else state(whole))
    if formats:
        rounded.tell(metrics)
    return metrics


def check_kv_bits(work: Workspace) -> None:
    """Raise ``UserError`` for ``kv_bits`` of a model that has no cache, whose heads the engine refuses, or whose
    attention cannot be seen.
    """
    kv_bits, source = work.config.kv_bits, work.source
    if kv_bits is None:
        return
    if source.family.objective != "next-token":
        raise UserError(f"--kv-bits {kv_bits}: {source.directory} is an encoder, which caches nothing")
    parse_format(kv_bits).check(source.geometry.head_dim)
    require_noted(source.config["architectures"][0])


@dataclass(frozen=True)
class Rounded:
    """Models with rounded caches, to be measured among others. ``whole``: KV bytes of the parent in 16 bits."""

    subjects: Mapping[str, Subject]
    asked: Mapping[str, tuple[str, str]]
    whole: int

    def tell(self, metrics: dict[str, Any]) -> None:
        """Of all ``metrics`` those of rounded caches become ``rounded``, and every other gets its ``kv_share``."""
        results = metrics["results"]
        metrics["rounded"] = []
        for subject, (cache, name) in self.asked.items():
            record = results.pop(subject)
            del record["kv_bytes_by_format"], record["kv_value_bits"]  # of the model
            metrics["rounded"].append({"format": cache, "model": name, **_with_share(record, self.whole)})
        for record in (metrics["parent"], *results.values()):
            record |= _with_share(record, self.whole)


def rounded_subjects(work: Workspace, converted: Mapping[str, Subject], formats: Sequence[KVFormat]) -> Rounded:
    """The parent, and the model that is ``converted``, in all of ``formats``."""
    parent = work.unjoined.parent
    own = kv_size(work.unjoined.source, parent.model, parent.directory)
    models = {PARENT: Subject(ParentLayers(parent), own, count_parameters(parent.model))}
    models |= {name: subject for name, subject in converted.items() if name == CONVERTED}
    subjects, asked = {}, {}
    for kv in formats:
        for name in _taking(kv, models):
            subjects[f"{name} {kv.name}"] = _rounded(models[name], kv, work.config.block_length)
            asked[f"{name} {kv.name}"] = (kv.name, name)
    return Rounded(subjects, asked, 2 * sum(own.heads) * own.head_dim)


def _rounded(subject: Subject, kv: KVFormat, context: int) -> Subject:
    if not isinstance(subject.runner, ParentLayers):
        raise UserError("this model runs on code of others, whose KV cache cannot be rounded here")
    size = kv.bytes_per_token(*subject.kv.heads, subject.kv.head_dim, context)
    return replace(subject, runner=RoundedLayers(subject.runner, kv), kv=replace(subject.kv, stored=size))


def _taking(kv: KVFormat, models: Mapping[str, Subject]) -> list[str]:
    """Those whose heads the format takes, as joined heads are of another size; raises ``UserError`` for none."""
    taking = [name for name, one in models.items() if kv.refusal(one.kv.head_dim) is None]
    if not taking:
        kv.check(models[PARENT].kv.head_dim)
    return taking


def _with_share(record: dict[str, Any], whole: int) -> dict[str, Any]:
    return {**record, "kv_share": record["kv_bytes_per_token"] / whole}

"""From the folders of healing runs to a report: everything shown is read from their files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from gqasearch.config import read_config_file
from gqasearch.errors import UserError
from gqasearch.files import read_json
from gqasearch.grouping_document import GroupingDocument, read_grouping
from gqasearch.reporting import Measurement, TextUse
from gqasearch.reporting.healing import HealingData, HealingPoint, HealingRun, HeldOut
from gqasearch.run.heal.heal_folder import HealFolder, is_heal_folder

TEXTS = {
    "trained": ("training", "the healed weights"),
    "validation": ("validation", "the curves of this page, and when to stop; never trained on"),
    "reported": ("held-out", "the figures before and after; nothing was trained, fitted or searched on it"),
}


def all_healing(folders: Sequence[Path]) -> bool:
    """Whether these are folders of healing runs; raises ``UserError`` for some of this and some of that kind."""
    healed = [path for path in folders if is_heal_folder(path)]
    others = [path for path in folders if path not in healed]
    if healed and others:
        raise UserError(
            f"{healed[0]} is a healing run, {others[0]} is not: a page shows runs of one kind. Report them apart"
        )
    return bool(healed)


def healing_data(folders: Sequence[Path], title: str | None = None, labels: Sequence[str] | None = None) -> HealingData:
    """The report of one or several healing runs of one parent, measured on the same texts.

    ``labels``: one per folder, names of starts; runs with one label are taken for seeds of one start. By default
    what made the start, from its grouping JSON, and what else sets it apart. Raises ``UserError`` for a folder of
    another kind, an unfinished run, or runs that cannot be shown together.
    """
    if labels is not None and len(labels) != len(folders):
        raise UserError(f"{len(folders)} folders and {len(labels)} labels: give one label per folder, in their order")
    runs = [_Run(path) for path in folders]
    first = runs[0]
    for other in runs[1:]:
        _refuse_mixed(first, other)
    names = list(labels) if labels is not None else _labels(runs)
    texts = first.metrics["texts"]
    perplexity = texts["validation"].get("parent_perplexity")
    return HealingData(
        title=title or f"{first.config['parent']}: healing after conversion",
        parent=_held_out(first.metrics["parent"]),
        runs=tuple(run.healing_run(name) for run, name in zip(runs, names, strict=True)),
        measurement=Measurement(
            first.metrics["convention"], int(first.metrics["block_length"]), int(first.metrics["targets"])
        ),
        texts=tuple(
            TextUse(role, texts[key]["source"], int(texts[key]["tokens"]), use) for key, (role, use) in TEXTS.items()
        ),
        configuration=_configurations(runs),
        environment=first.environment(),
        validation_perplexity=None if perplexity is None else float(perplexity),
        notes=tuple(note for run in runs for note in run.notes()),
    )


class _Run:
    """One finished healing run, read once."""

    def __init__(self, path: Path) -> None:
        if not is_heal_folder(path):
            raise UserError(f"{path} is no healing run; gqasearch heal makes one")
        self.path = path
        self.folder = HealFolder(path)
        self.config = read_config_file(self.folder.config)
        if not self.folder.metrics.is_file():
            raise UserError(f"{path} is unfinished: it has no metrics.json; run its heal command again")
        self.metrics = read_json(self.folder.metrics)

    @cached_property
    def document(self) -> GroupingDocument | None:
        """The start's grouping JSON: that of the healed checkpoint, or where the start lies or lay."""
        start = Path(str(self.config["model"])).expanduser()
        places = (self.folder.model, start, start / "model")
        return next((read_grouping(p / "grouping.json") for p in places if (p / "grouping.json").is_file()), None)

    @cached_property
    def history(self) -> tuple[HealingPoint, ...]:
        lines = self.folder.history.read_text(encoding="utf-8").splitlines() if self.folder.history.is_file() else []
        records = [json.loads(line) for line in lines]
        if not records:
            raise UserError(f"{self.path} has no history.jsonl, or an empty one")
        return tuple(HealingPoint(r["step"], r["tokens"], float(r["kl"]), float(r["perplexity"])) for r in records)

    def settings(self) -> dict[str, Any]:
        """All that sets it apart from other runs but the seed."""
        return {name: value for name, value in self.config.items() if name != "seed"}

    def healing_run(self, label: str) -> HealingRun:
        results = self.metrics["results"]
        best_kept = self.config.get("patience") is not None
        return HealingRun(
            label=label,
            seed=int(self.config["seed"]),
            history=self.history,
            start=_held_out(results["start"]),
            healed=_held_out(results["healed"]),
            tokens=int(self.metrics["tokens"]),
            kept=min(self.history, key=lambda point: point.kl) if best_kept else self.history[-1],
        )

    def notes(self) -> list[str]:
        if not self.metrics.get("stopped_early"):
            return []
        return [f"{self.path} was stopped early, after {self.metrics['steps']} of {self.config['steps']} steps."]

    def environment(self) -> dict[str, str]:
        record = read_json(self.folder.environment)
        packages = {str(name): str(number) for name, number in record.pop("packages", {}).items()}
        return {**{str(key): str(value) for key, value in record.items()}, **packages}


def start_label(document: GroupingDocument) -> str:
    """What made a checkpoint, in words: its grouping, merge and refinement."""
    method = document.search.method if document.search else ""
    fitness = document.fitness.name if document.fitness else ""
    grouping = method if method in ("neighbour", "norm-sort", "") or not fitness else fitness
    if grouping == fitness and method not in ("", "evolution"):
        grouping = f"{fitness} ({method})"
    parts = [grouping or "given grouping"]
    if document.merge is not None:
        parts.append(document.merge.name)
    if document.refinement is not None and document.refinement.name != "none":
        parts.append(document.refinement.name)
    return " + ".join(parts)


def _labels(runs: Sequence[_Run]) -> list[str]:
    """Runs of one start with the same settings share a label, whatever their seeds; others are told apart."""
    groups: list[list[_Run]] = []
    for run in runs:
        mine = next((group for group in groups if group[0].settings() == run.settings()), None)
        if mine is None:
            groups.append([run])
        else:
            mine.append(run)
    bare = [_bare_label(group[0]) for group in groups]
    differing = _differing(groups)
    full = [
        label if bare.count(label) == 1 else f"{label} ({words})" for label, words in zip(bare, differing, strict=True)
    ]
    return [next(label for group, label in zip(groups, full, strict=True) if run in group) for run in runs]


def _bare_label(run: _Run) -> str:
    if run.document is not None:
        return start_label(run.document)
    start = Path(str(run.config["model"]))
    return start.parent.name if start.name == "model" else start.name


def _differing(groups: Sequence[Sequence[_Run]]) -> list[str]:
    """Of every group, the settings that are not the same in all groups, as words."""
    settings = [group[0].settings() for group in groups]
    names = [name for name in settings[0] if any(other.get(name) != settings[0][name] for other in settings[1:])]
    return [", ".join(f"{name.replace('_', ' ')} {own.get(name)}" for name in names) for own in settings]


def _held_out(record: Mapping[str, Any]) -> HeldOut:
    low, high = record["kl_interval"]
    kl, perplexity = float(record["kl"]), float(record["perplexity"])
    return HeldOut(perplexity, kl, (float(low), float(high)), int(record["kv_bytes_per_token"]))


def _configurations(runs: Sequence[_Run]) -> str:
    """The first run's settings in full; of every other run what differs from it."""
    first = runs[0].config
    pieces = [f"# {runs[0].path}\n{yaml.safe_dump(first, sort_keys=False)}"]
    for run in runs[1:]:
        changed = {name: value for name, value in run.config.items() if value != first.get(name)}
        pieces.append(f"# {run.path}: as the first, but\n{yaml.safe_dump(changed, sort_keys=False)}")
    return "\n".join(pieces)


def _refuse_mixed(first: _Run, other: _Run) -> None:
    """Curves and figures share a page only if the parent and the texts are the same."""
    a, b = first.metrics, other.metrics
    same_parent = math.isclose(a["parent"]["perplexity"], b["parent"]["perplexity"], rel_tol=1e-3)
    if first.document is not None and other.document is not None:
        same_parent = first.document.model.fingerprint == other.document.model.fingerprint
    for what, same in (
        ("held-out texts", a["texts"]["reported"]["fingerprint"] == b["texts"]["reported"]["fingerprint"]),
        ("validation texts", a["texts"]["validation"]["fingerprint"] == b["texts"]["validation"]["fingerprint"]),
        ("block lengths", a["block_length"] == b["block_length"]),
        ("parents", same_parent),
    ):
        if not same:
            raise UserError(f"{first.path} and {other.path} have different {what}; report them apart")

"""From run folders to a report: everything shown is read from their files."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gqasearch.config import RunConfig
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_file
from gqasearch.grouping_document import GroupingDocument, partition_rows, read_grouping
from gqasearch.models import objective_of
from gqasearch.reporting import (
    History,
    HistoryPoint,
    Measurement,
    MethodResult,
    ParentResult,
    ParetoFront,
    ReportData,
    Similarity,
    TextUse,
)
from gqasearch.reporting.continuations import Generated, generated
from gqasearch.reporting.data import layer_pictures
from gqasearch.reporting.rounded_rows import RoundedResult, rounded_results
from gqasearch.reporting.text_table import TextTable
from gqasearch.run.run_folder import RunFolder
from gqasearch.steps.kv_bytes import decision_table
from gqasearch.steps.measure import BASELINE, CONVERTED

FloatArray = NDArray[np.float64]
# In metrics.json -> in a report.
PEAKS = {"peak_bytes": "peak of memory, GB", "device_peak_bytes": "peak of the device's memory, GB"}


def label_of(config: RunConfig) -> str:
    """How a run is named in tables: what grouped the heads."""
    if config.method == "neighbour":
        return "neighbour"
    if config.method == "random":
        return f"best of random by {config.fitness}"
    name = " and ".join(config.objectives)
    return name if config.method == "evolution" else f"{name} ({config.method})"


def merge_words(config: RunConfig) -> str:
    """The merge, and the refinement after it if there is one."""
    return config.merge if config.refine in (None, "none") else f"{config.merge} + {config.refine}"


def report_data(folders: Sequence[RunFolder], title: str | None = None) -> ReportData:
    """The report of one run, or of several of one model measured on the same text.

    Raises ``UserError`` when a run is unfinished, or when runs cannot be shown in one table.
    """
    runs = [_Run(folder) for folder in folders]
    first = runs[0]
    for other in runs[1:]:
        _refuse_mixed(first, other)
    results = [result for run in runs for result in run.results()]
    unique = {(result.name, result.kv_heads_total): result for result in results}
    model = first.document.model
    of_memory = (
        "keys and values" if objective_of({"architectures": [model.architecture]}) != "next-token" else "KV cache"
    )
    return ReportData(
        title=title
        or (first.rounded_title() if len(runs) == 1 else None)
        or f"{model.id}: {first.document.kv_ratio:.3g} of the {of_memory}",
        model={
            "model": model.id,
            "architecture": model.architecture,
            "layers": str(model.num_layers),
            "attention heads": str(model.num_attention_heads),
            "KV heads": str(model.num_key_value_heads),
            "head dimension": str(model.head_dim),
            "weights": model.fingerprint[:23],
        },
        parent=first.parent(),
        results=tuple(unique.values()),
        measurement=Measurement(
            first.metrics["convention"], int(first.metrics["block_length"]), int(first.metrics["targets"])
        ),
        texts=tuple({text.role: text for run in runs for text in run.texts()}.values()),
        configuration=_configurations(runs),
        environment=first.environment(),
        similarity=next((found for run in runs if (found := run.similarity()) is not None), None),
        front=first.front() if len(runs) == 1 else None,
        rounded=_rounded(runs),
        decision=first.decision() if len(runs) == 1 else None,
        generated=first.generated() if len(runs) == 1 else None,
        warnings=tuple(dict.fromkeys(warning for run in runs for warning in run.metrics["warnings"])),
    )


def _rounded(runs: Sequence[_Run]) -> tuple[RoundedResult, ...]:
    """Of all runs, every row once: the parent is the same in all."""
    return tuple(dict.fromkeys(result for run in runs for result in run.rounded()))


class _Run:
    """One finished run folder, read once."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.config = folder.read_config()
        if not folder.metrics.is_file():
            raise UserError(f"{folder.path} is unfinished: it has no metrics.json; run its search command again")
        self.metrics = read_json(folder.metrics)
        self.document: GroupingDocument = read_grouping(folder.grouping)

    def parent(self) -> ParentResult:
        own, model = self.metrics["parent"], self.document.model
        total = len(self.document.layers) * model.num_key_value_heads
        figures = (own["kv_bytes_per_token"], own["parameters"], own.get("kv_value_bits"))
        return ParentResult(own.get("perplexity", math.nan), total, *figures)

    def results(self) -> list[MethodResult]:
        """The baseline if it was measured, then the run's own model."""
        found = [self._own()]
        if BASELINE in self.metrics["results"]:
            found.insert(0, self._baseline())
        return found

    def _own(self) -> MethodResult:
        document, config = self.document, self.config
        return MethodResult(
            label=label_of(config),
            method=config.method,
            merge=merge_words(config),
            fitness=config.fitness,
            layers=layer_pictures(document),
            history=self._history(),
            seconds=float(self.metrics["seconds"]["all"]),
            **self._figures(CONVERTED),
        )

    def _baseline(self) -> MethodResult:
        return MethodResult(
            label="neighbour",
            method="neighbour",
            merge="mean",
            fitness=None,
            seconds=math.nan,
            **self._figures(BASELINE),
        )

    def _figures(self, name: str) -> dict[str, Any]:
        record, grouping = self.metrics["results"][name], self.document.partitions
        return {
            "kv_ratio": self.document.kv_ratio,
            "kv_heads_total": grouping.kv_heads_total,
            **{key: record.get(key, math.nan) for key in ("perplexity", "kl", "hidden_error")},
            **{key: record[key] for key in ("kv_bytes_per_token", "parameters")},
            "embedding_cosine": record.get("embedding_cosine", {}).get("plain", math.nan),
        }

    def rounded(self) -> tuple[RoundedResult, ...]:
        """Models with rounded caches, named as in the table of results."""
        ratio = f"KV ratio {self.document.kv_ratio:.3g}"
        names = {BASELINE: f"neighbour + mean, {ratio}"}
        names[CONVERTED] = f"{label_of(self.config)} + {merge_words(self.config)}, {ratio}"
        return rounded_results(self.metrics, names)

    def rounded_title(self) -> str | None:
        """Of a run for one format of the cache, which is measured in that alone: its share of the bytes."""
        found = [record for record in self.metrics.get("rounded", ()) if record["model"] == CONVERTED]
        if len(found) != 1:
            return None
        return f"{self.document.model.id}: {found[0]['kv_share']:.3g} of the KV cache's bytes, {found[0]['format']}"

    def _history(self) -> tuple[History, ...]:
        if self.config.method == "neighbour" or not self.folder.history.is_file():
            return ()
        lines = [json.loads(line) for line in self.folder.history.read_text(encoding="utf-8").splitlines()]
        points = [
            HistoryPoint(line["generation"], line["evaluations"], line["best"][0], line["seconds"]) for line in lines
        ]
        return (History("whole model", tuple(points)),)

    def texts(self) -> tuple[TextUse, ...]:
        uses = {
            "statistics": (
                "calibration",
                "statistics of every layer; merges and refinements are fitted on it",
            ),
            "search": ("search", "fitness functions that run the model"),
            "reported": ("held-out", "the figures of this page; nothing was fitted or searched on it"),
        }
        if self.config.evaluation_part == "validation":
            uses["reported"] = ("validation", "the figures of this page, to compare settings; none to report")
        found = []
        for key, (role, purpose) in uses.items():
            text = self.metrics["texts"][key]
            if text.get("used", True):
                found.append(TextUse(role, text["source"], int(text["tokens"]), purpose))
        return tuple(found)

    def environment(self) -> dict[str, str]:
        record = read_json(self.folder.environment)
        packages = {str(name): str(number) for name, number in record.pop("packages").items()}
        told = {str(key): str(value) for key, value in record.items()}
        return {**told, **_stage_words(self.metrics), **packages}

    def similarity(self) -> Similarity | None:
        if not self.folder.similarity.is_file():
            return None
        with np.load(self.folder.similarity, allow_pickle=False) as stored:
            return Similarity(stored["key"], stored["value"])

    def front(self) -> ParetoFront | None:
        if not self.folder.pareto.is_file():
            return None
        record = read_json(self.folder.pareto)
        points = tuple(tuple(point["values"]) for point in record["points"])
        formats = [point.get("format") for point in record["points"]]
        groups = [[list(group) for group in layer.grouping.groups] for layer in self.document.layers]
        listed = [partition_rows(point["layers"], self.document.separate_kv) for point in record["points"]]
        chosen = [i for i, rows in enumerate(listed) if [row["groups"] for row in rows] == groups]
        if "decision" in self.metrics:
            (taken,) = (row["format"] for row in self.metrics["decision"]["options"] if row["chosen"])
            chosen = [i for i in chosen if formats[i] == taken]
        labels = tuple(str(name) for name in formats if name is not None)
        return ParetoFront(tuple(record["objectives"]), points, chosen[0] if chosen else None, labels=labels)

    def generated(self) -> Generated | None:
        return generated(read_json(self.folder.generated)) if self.folder.generated.is_file() else None

    def decision(self) -> TextTable | None:
        if "decision" not in self.metrics:
            return None
        headers, *rows = decision_table(self.metrics["decision"])
        return TextTable(f"{self.metrics['decision']['kv_bytes']:g} of the bytes", headers, tuple(rows), (0, 6))


def _stage_words(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What the stages took, by what it is, in words."""
    listed = {"seconds": [f"{name} {seconds:,.1f}" for name, seconds in metrics["seconds"].items()]}
    for key, words in PEAKS.items():
        if key in metrics:  # runs of older versions did not note it
            listed[words] = [f"{name} {peak / 1e9:.2f}" for name, peak in metrics[key].items()]
    return {words: ", ".join(stages) for words, stages in listed.items()}


def _configurations(runs: Sequence[_Run]) -> str:
    """The first run's settings in full; of every other run what differs from it."""
    first = runs[0].config.model_dump(mode="json")
    pieces = [f"# {runs[0].folder.path}\n{runs[0].config.to_yaml()}"]
    for run in runs[1:]:
        own = run.config.model_dump(mode="json")
        changed = {name: value for name, value in own.items() if value != first[name]}
        pieces.append(f"# {run.folder.path}: as the first, but\n{yaml.safe_dump(changed, sort_keys=False)}")
    return "\n".join(pieces)


def _refuse_mixed(first: _Run, other: _Run) -> None:
    """Figures share a table only if the model and the held-out text are the same."""
    for what, a, b in (
        ("models", first.document.model.fingerprint, other.document.model.fingerprint),
        ("held-out texts", first.metrics["texts"]["reported"], other.metrics["texts"]["reported"]),
        ("block lengths", first.metrics["block_length"], other.metrics["block_length"]),
    ):
        if a != b:
            raise UserError(f"{first.folder.path} and {other.folder.path} have different {what}; report them apart")


def write_similarity(path: Path, key: FloatArray, value: FloatArray) -> None:
    """Head similarities (L, H, H) as npz."""
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, key=key, value=value)
    write_file(path, data.getvalue(), overwrite=True)

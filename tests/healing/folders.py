"""Folders as ``gqasearch heal`` leaves them, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from gqasearch.grouping import Grouping
from gqasearch.grouping_document import (
    FitnessRecord,
    GroupingDocument,
    LayerRecord,
    MergeRecord,
    ModelRecord,
    RefinementRecord,
    SearchRecord,
    write_grouping,
)

MODEL = ModelRecord("embedded", "LlamaForCausalLM", 2, 4, 4, 8, fingerprint="sha256:" + "a" * 64)


def document(method: str, fitness: str, merge: str, refinement: str = "none") -> GroupingDocument:
    grouping = Grouping.from_labels([[0, 0, 1, 1], [0, 1, 0, 1]])
    return GroupingDocument(
        model=MODEL,
        layers=tuple(LayerRecord(layer) for layer in grouping),
        merge=MergeRecord(merge),
        refinement=RefinementRecord(refinement),
        fitness=FitnessRecord(fitness, 1.0),
        search=SearchRecord(method, 0, 10),
    )


def healing_folder(
    folder: Path, kls: list[float], start: GroupingDocument | None = None, *, text: str = "b", **settings: Any
) -> Path:
    """A finished run with this KL at every 100 steps. ``text``: fingerprint of the reported one."""
    folder.mkdir(parents=True)
    config = {"model": "runs/start", "parent": "embedded", "steps": 100 * (len(kls) - 1), "loss": "kl", "seed": 0}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "patience": None, **settings}))
    lines = [
        {"step": 100 * i, "tokens": 204_800 * i, "seconds": 9.0 * i, "loss": None, "kl": kl, "perplexity": 15 + kl}
        for i, kl in enumerate(kls)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {"kv_bytes_per_token": 2304, "parameters": 10, "bits_per_byte": 1.0, "kl_blocks": [0.1]}
    texts = {
        name: {"source": f"{name} text", "tokens": 1000, "fingerprint": f"sha256:{mark}"}
        for name, mark in (("trained", "t"), ("validation", "v"), ("reported", text))
    }
    metrics = {
        "convention": "Every token but a block's first is a target.",
        "block_length": 256,
        "targets": 65_280,
        "texts": texts,
        "parent": {**record, "perplexity": 14.4, "kl": 0.0, "kl_interval": [0.0, 0.0], "kv_bytes_per_token": 9216},
        "results": {
            name: {**record, "perplexity": 14.4 + kl, "kl": kl, "kl_interval": [0.9 * kl, 1.1 * kl]}
            for name, kl in (("start", kls[0]), ("healed", kls[-1]))
        },
        "steps": 100 * (len(kls) - 1),
        "tokens": 204_800 * (len(kls) - 1),
        "stopped_early": False,
        "seconds": {"all": 1.0},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "environment.json").write_text(json.dumps({"gqasearch": "0.1.0", "packages": {"torch": "2.13.0"}}))
    (folder / "model").mkdir()
    if start is not None:
        write_grouping(folder / "model" / "grouping.json", start)
    return folder

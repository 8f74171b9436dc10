"""One way, made and measured: a row for every format of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from experiments.frontier.low_rank import LowRankLayers, find_bases
from experiments.frontier.ways import PLAIN, Way
from gqasearch.checkpoints import runs_own_code
from gqasearch.config import RunConfig, build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import (
    LayerStack,
    ParentLayers,
    RoundedLayers,
    embed,
    evaluate_quality,
    mean_interval,
)
from gqasearch.reporting import SearchProgress
from gqasearch.rounding import KVFormat, parse_format
from gqasearch.run import run
from gqasearch.steps import Workspace
from gqasearch.steps.measure import checkpoint_layers, checkpoint_model, kv_size

Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """Something to measure: how it runs, and the bytes of its keys and values per token."""

    runner: LayerStack
    kv_bytes: float


def measure_way(way: Way, seed: int, formats: list[str], settings: dict[str, Any], output_dir: Path) -> list[Row]:
    """Rows of one way in these formats. Runs are in ``output_dir``; one that is there is not run again."""
    if way.has_basis:
        made = [(name, {"kv_bits": name}) for name in formats]
        return [row for name, kv in made for row in _measure(way, seed, [name], {**settings, **kv}, output_dir)]
    return _measure(way, seed, formats, settings, output_dir)


def _measure(way: Way, seed: int, formats: list[str], settings: dict[str, Any], output_dir: Path) -> list[Row]:
    config = build_config({**settings, **way.changes, "baseline": False, "seed": seed})
    with SearchProgress(Console(stderr=True)) as progress:
        directory = None
        if way.changes:
            folder = output_dir / _folder_name(way.name, config)
            # Its own figures, of one block, are not used: those of all formats are measured together.
            briefly = config.model_copy(update={"evaluation_tokens": config.block_length})
            directory = run(briefly, folder, progress, report=False).model
        work = Workspace(config, progress)
        whole, subjects = _subjects(work, way, directory, formats)
        rows = _judged(work, subjects)
    return [
        {
            "way": way.name,
            "format": name,
            "seed": seed,
            "kind": way.kind(name),
            "kv_share": subjects[name].kv_bytes / whole,
            "kv_bytes_per_token": subjects[name].kv_bytes,
            **rows[name],
        }
        for name in formats
    ]


def _folder_name(name: str, config: RunConfig) -> str:
    words = name.replace(" + ", "-").replace(", ", "-").replace(" ", "-")
    basis = "" if config.kv_bits is None else f"-{config.kv_bits}"
    return f"{words}{basis}-seed{config.seed}"


def _subjects(
    work: Workspace, way: Way, directory: Path | None, formats: list[str]
) -> tuple[float, dict[str, Measured]]:
    """By format; before them the bytes of the parent in 16 bits."""
    parent, context = work.unjoined.parent, work.config.block_length
    own = kv_size(work.unjoined.source, parent.model, parent.directory)
    cached = sum(own.heads)
    # Encoders compute keys and values and cache none; these are told as they are stored.
    whole = 2 * cached * own.head_dim if cached else own.stored
    parsed = {name: parse_format(name) for name in formats}
    if way.low_rank is not None:
        return whole, _latents(work, way, parsed, whole)
    runner, size = ParentLayers(parent), own
    if directory is not None:
        model = checkpoint_model(work, directory, trust_remote_code=runs_own_code(directory))
        found = checkpoint_layers(work.source, directory, model)
        if not isinstance(found, ParentLayers):
            raise UserError(f"{directory}: a checkpoint whose layers are not known")
        runner, size = found, kv_size(work.source, model, directory)
    if not cached:
        return whole, {PLAIN: Measured(runner, size.stored)}
    return whole, {
        name: Measured(
            runner if name == PLAIN else RoundedLayers(runner, kv),
            kv.bytes_per_token(*size.heads, size.head_dim, context),
        )
        for name, kv in parsed.items()
    }


def _latents(work: Workspace, way: Way, formats: Mapping[str, KVFormat], whole: float) -> dict[str, Measured]:
    low_rank, parent = way.low_rank, work.parent
    if low_rank is None:
        raise ValueError("a way of another kind")
    bases = tuple(find_bases(parent, work.statistics, low_rank))
    layers, shape = range(parent.geometry.num_layers), parent.geometry
    share = low_rank.rank(shape) / (low_rank.heads * shape.head_dim)
    return {
        name: Measured(
            LowRankLayers(parent, layers, None, bases, None if name == PLAIN else kv),
            share * whole if name == PLAIN else low_rank.bytes_per_token(shape, kv, work.config.block_length),
        )
        for name, kv in formats.items()
    }


def _judged(work: Workspace, subjects: Mapping[str, Measured]) -> dict[str, Row]:
    """Quality of each, with 95% bootstrap intervals over blocks of held-out text."""
    blocks, parent = work.blocks("evaluation"), ParentLayers(work.unjoined.parent)
    text = {"text": blocks.source.partition(": ")[0].rpartition("/")[2], "tokens": blocks.tokens}
    runners = {name: one.runner for name, one in subjects.items()}
    batch = work.config.batch_blocks
    work.progress.stage("evaluation", total=len(blocks.ids))
    if work.source.family.objective == "masked":
        return {
            name: {**_with_interval("loss", losses), **text}
            for name, losses in embedding_losses(parent, runners, blocks.text, blocks.mask, batch).items()
        }
    told = work.progress.update
    own, found = evaluate_quality(parent, runners, blocks, batch_blocks=batch, progress=lambda done, _: told(done))
    return {
        name: {
            **_with_interval("loss", list(quality.kl_blocks), quality.kl),
            "perplexity": quality.perplexity,
            "parent_perplexity": own.perplexity,
            **text,
        }
        for name, quality in found.items()
    }


def _with_interval(name: str, blocks: list[float], mean: float | None = None) -> Row:
    low, high = mean_interval(blocks, np.random.default_rng(0))
    return {name: float(np.mean(blocks)) if mean is None else mean, f"{name}_low": low, f"{name}_high": high}


def embedding_losses(
    parent: LayerStack, models: Mapping[str, LayerStack], ids: torch.Tensor, mask: torch.Tensor, batch: int
) -> dict[str, list[float]]:
    """1 - cosine of every model's sentence embedding to the parent's, block by block; ``ids``, ``mask`` (N, T)."""
    losses: dict[str, list[float]] = {name: [] for name in models}
    for rows in torch.arange(len(ids)).split(batch):
        wanted = embed(parent, ids[rows], mask[rows])
        for name, model in models.items():
            losses[name] += (1 - (embed(model, ids[rows], mask[rows]) * wanted).sum(-1)).tolist()
    return losses

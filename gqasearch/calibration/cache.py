"""Statistics on disk: one safetensors file per layer, in a folder named by fingerprint."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from safetensors.torch import load_file

from gqasearch.calibration.blocks import TokenBlocks
from gqasearch.calibration.collect import HIDDEN, collect, no_progress
from gqasearch.calibration.statistics import LayerStatistics, Statistics
from gqasearch.files import adopt_abandoned, aside_of, cache_root, remove_all_abandoned, save_tensors
from gqasearch.models import Parent

FORMAT = 2  # raise when the meaning of a statistic changes: older caches are then not found
MANIFEST = "statistics.json"
SMALL = 2**25  # bytes of a layer's file; what was read of larger ones is memory that whoever comes next needs


@dataclass(frozen=True)
class CachedStatistics(Statistics):
    """Statistics read from their folder, a layer at a time."""

    folder: Path
    num_tokens: int
    text: str
    key: str

    @property
    def tokens(self) -> int:
        return self.num_tokens

    @property
    def source(self) -> str:
        return self.text

    @property
    def fingerprint(self) -> str:
        return self.key

    def layer(self, index: int) -> LayerStatistics:
        is_small = _layer_file(self.folder, index).stat().st_size <= SMALL
        return self._kept_layer(index) if is_small else self._read(index)

    @lru_cache(maxsize=2)  # noqa: B019 - a frozen instance, and two layers at most
    def _kept_layer(self, index: int) -> LayerStatistics:
        return self._read(index)

    def _read(self, index: int) -> LayerStatistics:
        tensors = load_file(_layer_file(self.folder, index))
        return LayerStatistics(tokens=self.num_tokens, **tensors)


def statistics_key(parent: Parent, blocks: TokenBlocks, sample_tokens: int) -> str:
    """``sha256:...`` of all that the statistics depend on."""
    parts = [FORMAT, parent.identity, str(parent.model.dtype), blocks.fingerprint, sample_tokens]
    if blocks.short_length is not None:  # else the key of versions that padded short texts there too
        parts.append(blocks.short_length)
    return f"sha256:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}"


def load_or_collect(
    parent: Parent,
    blocks: TokenBlocks,
    *,
    batch_blocks: int = 8,
    sample_tokens: int = 256,
    root: Path | None = None,
    progress: Callable[[int, int], None] = no_progress,
) -> CachedStatistics:
    """Statistics of ``parent`` on ``blocks``: from the cache, or by one pass that fills it.

    The folder appears under its name only when it is complete. A pass that was stopped goes on at the layer that it
    was stopped in.
    """
    key = statistics_key(parent, blocks, sample_tokens)
    base = (root or cache_root()) / "statistics"
    folder = base / key.removeprefix("sha256:")[:32]
    found = CachedStatistics(folder, blocks.tokens, blocks.source, key)
    if (folder / MANIFEST).is_file():
        return found
    base.mkdir(parents=True, exist_ok=True)
    aside = aside_of(folder)
    adopt_abandoned(folder, aside)
    remove_all_abandoned(base)  # the same model and text may never come again
    aside.mkdir(exist_ok=True)
    done = _layers_done(aside)
    try:
        layers = collect(
            *(parent, blocks, aside),
            batch_blocks=batch_blocks,
            sample_tokens=sample_tokens,
            done=done,
            progress=progress,
        )
        for index, layer in enumerate(layers, start=done):
            _write_layer(_layer_file(aside, index), layer)
        shutil.rmtree(aside / HIDDEN, ignore_errors=True)
        manifest = {"format": FORMAT, "key": key, "tokens": blocks.tokens, "source": blocks.source, "model": parent.id}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _put(aside, folder)
    finally:
        if not _layers_done(aside):
            shutil.rmtree(aside, ignore_errors=True)
    return found


def _layer_file(folder: Path, index: int) -> Path:
    return folder / f"layer_{index:03d}.safetensors"


def _layers_done(folder: Path) -> int:
    """Layers whose statistics are complete, from the first."""
    done = 0
    while _layer_file(folder, done).is_file():
        done += 1
    return done


def _write_layer(path: Path, layer: LayerStatistics) -> None:
    tensors = {field.name: getattr(layer, field.name) for field in fields(layer) if field.name != "tokens"}
    save_tensors(path, tensors)


def _put(aside: Path, folder: Path) -> None:
    """Rename into place; a folder that another process finished meanwhile is as good."""
    try:
        aside.replace(folder)
    except OSError:
        if not (folder / MANIFEST).is_file():
            raise

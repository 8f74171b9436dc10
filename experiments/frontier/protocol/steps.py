"""The two measurements of the protocol, of the parent or of a checkpoint, with its cache rounded or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.frontier.protocol.published import METRIC, METRICS
from experiments.frontier.protocol.rounding_cache import cache_rounded
from experiments.frontier.protocol.texts import ProtocolText, windows
from gqasearch.calibration import TokenBlocks
from gqasearch.checkpoints import runs_own_code
from gqasearch.errors import UserError
from gqasearch.evaluation import ParentLayers, RoundedLayers, evaluate_quality
from gqasearch.rounding import KVFormat, parse_format
from gqasearch.steps import Workspace
from gqasearch.steps.measure import checkpoint_layers, checkpoint_model, kv_size
from gqasearch.steps.tasks import task_scores


@dataclass(frozen=True)
class Bench:
    """The parent in ``work``, and what it and its conversions are measured on: ``texts`` in windows of ``length``."""

    work: Workspace
    texts: Sequence[ProtocolText]
    length: int
    _cut: dict[str, TokenBlocks] = field(default_factory=dict)

    def blocks(self, text: ProtocolText) -> TokenBlocks:
        """Its windows, as the parent's tokenizer cuts them."""
        if text.name not in self._cut:
            self._cut[text.name] = windows(self.work.tokenizer, text, self.length)
        return self._cut[text.name]


def perplexities(bench: Bench, directory: Path | None, kv_bits: str | None) -> dict[str, float]:
    """By text, and with a checkpoint KL to the parent, whose cache is not rounded, and the share of its KV bytes.

    ``directory``: the checkpoint, None for the parent.
    """
    work, layers = bench.work, ParentLayers(bench.work.parent)
    runners: dict[str, Any] = {}
    found: dict[str, float] = {}
    if directory is not None:
        model = checkpoint_model(work, directory, trust_remote_code=runs_own_code(directory))
        own = checkpoint_layers(work.source, directory, model)
        if not isinstance(own, ParentLayers):
            raise UserError(f"{directory}: a checkpoint whose layers are not known")
        kv = parse_format(kv_bits or "16")
        runners["own"] = own if kv_bits is None else RoundedLayers(own, kv)
        sizes = (kv_size(work.source, model, directory), kv_size(work.source, work.parent.model, work.parent.directory))
        mine, whole = sizes
        found["kv_share"] = kv.bytes_per_token(*mine.heads, mine.head_dim) / (2 * sum(whole.heads) * whole.head_dim)
    measured = {}
    for text in bench.texts:
        blocks = bench.blocks(text)
        work.progress.stage(f"perplexity, {text.name}", total=len(blocks.ids))
        parent, others = evaluate_quality(layers, runners, blocks, batch_blocks=1, progress=_told(work))
        quality = others.get("own", parent)
        measured[f"perplexity {text.name}"] = quality.perplexity
        if directory is not None:
            found[f"kl {text.name}"] = quality.kl
    return measured | found


def _told(work: Workspace) -> Any:
    return lambda done, _: work.progress.update(done)


def task_mean(
    bench: Bench, directory: Path | None, kv_bits: str | None, tasks: Sequence[str], limit: int | None
) -> dict[str, float]:
    """The mean over ``tasks`` in percent, and every task's figure, in the metric that papers take it from."""
    if not tasks:
        return {}
    work = bench.work
    kv: KVFormat | None = None if kv_bits is None else parse_format(kv_bits)
    model = work.parent.model
    if directory is not None:
        model = checkpoint_model(work, directory, trust_remote_code=runs_own_code(directory))
    with cache_rounded(model, kv):
        scores = task_scores(work, "parent" if directory is None else directory.parent.name, model, tasks, limit=limit)
    own = {one.task: 100 * one.value for one in scores if one.metric == METRICS.get(one.task, METRIC)}
    return {"tasks": sum(own[task] for task in tasks) / len(tasks), **{f"task {task}": own[task] for task in tasks}}

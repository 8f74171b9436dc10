"""The order of the steps of healing: training, checkpoint, measurement, report."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from gqasearch.calibration import TokenBlocks
from gqasearch.checkpoints import MOST_TOKENS, CardFacts, CheckBlock, healed_card, write_healed
from gqasearch.evaluation import (
    CONVENTIONS,
    KVSize,
    ParentLayers,
    count_parameters,
    evaluate_quality,
)
from gqasearch.files import read_json, write_file, write_json
from gqasearch.heal_config import HealConfig
from gqasearch.healing.training import Lessons, Trained, train
from gqasearch.healing.validation import Validation
from gqasearch.reporting.healing_html import write_healing
from gqasearch.run.heal.heal_folder import HealFolder
from gqasearch.run.heal.healed_runs import healing_data
from gqasearch.run.heal.process_group import Ranks
from gqasearch.run.heal.work import START, HealWork
from gqasearch.run.inputs import hold_inputs
from gqasearch.steps.measure import checkpoint_layers, kv_size
from gqasearch.steps.metric_records import card_rows, measured_words, quality_record
from gqasearch.steps.progress import NoProgress, Progress

HEALED = "healed"


def heal(config: HealConfig, output_dir: Path, progress: Progress | None = None) -> HealFolder:
    """Train a converted checkpoint further, into ``output_dir``; goes on where an earlier process stopped.

    Under torchrun or accelerate every process calls this; the first one writes. Raises ``UserError`` for settings that
    do not fit the models or the texts, another run in the folder, and training that diverges.
    """
    ranks, folder = Ranks.of_environment(), HealFolder(output_dir)
    work = HealWork(config, folder, ranks, progress or NoProgress())
    work.check()
    ranks.join(config.device)
    if not ranks.leads:
        ranks.wait()  # until the first process has made the folder
        if not folder.model.is_dir():
            _train(work)
    else:
        folder.open(config)
        lock = folder.acquire()
        try:
            inputs = {START: work.identity} if folder.metrics.is_file() else work.inputs()
            hold_inputs(folder.inputs, inputs, folder.path)
            ranks.wait()
            _steps(work)
        finally:
            lock.release()
    ranks.leave()
    return folder


def _steps(work: HealWork) -> None:
    """Every step whose result is not there yet."""
    folder = work.folder
    if not folder.model.is_dir():
        _write_trained(work)
    if not folder.metrics.is_file():
        metrics = _measure(work)
        _rewrite_card(work, metrics)
        write_json(folder.metrics, metrics)
    if not folder.report.is_file():
        write_healing(folder.report, healing_data([folder.path]))
    shutil.rmtree(folder.states, ignore_errors=True)  # several times as large as the model, of no use any more


def _write_trained(work: HealWork) -> None:
    """Train and write the checkpoint; what training kept in memory is then free for what measures."""
    trained, folder = _train(work), work.folder
    _write_history(folder, trained.history)
    write_json(folder.trained, _trained_record(work, trained), overwrite=True)
    record = {"steps": trained.steps, "config": work.config.model_dump(mode="json")}
    words = _words(work.config, trained.steps)
    block = CheckBlock(work.validation_blocks.ids[:1, :MOST_TOKENS], "the validation text")
    write_healed(work.start, folder.model, work.to_write(trained.model), words, record, block)


def _train(work: HealWork) -> Trained:
    config, folder = work.config, work.folder
    validation = Validation(work.run_parent, work.validation_blocks)
    if work.ranks.leads:
        validation.reference  # noqa: B018 - before the parent is forgotten
    data, teacher = work.data, work.teacher()
    if config.parent_top_k is not None:
        work.forget_parent()
    parent = work.parent.model if config.attention_weight else None
    work.progress.stage("heal", total=config.steps)

    def on_step(step: int, history: list[dict[str, Any]]) -> None:
        last = history[-1]
        if work.ranks.leads and last["step"] == step:
            _write_history(folder, history)
        work.progress.update(step, detail=f"KL {last['kl']:.4g}, perplexity {last['perplexity']:.4g}")

    lessons = Lessons(data, teacher, validation, parent)
    return train(config, work.student(), lessons, folder.states, work.ranks.world, on_step)


def _write_history(folder: HealFolder, history: list[dict[str, Any]]) -> None:
    write_file(folder.history, "".join(json.dumps(line) + "\n" for line in history), overwrite=True)


def _trained_record(work: HealWork, trained: Trained) -> dict[str, Any]:
    packed = work.packed
    return {
        "steps": trained.steps,
        "tokens": trained.steps * work.config.tokens_per_step,
        "stopped_early": trained.stopped_early,
        "seconds": trained.history[-1]["seconds"],
        "text": {"source": packed.source, "tokens": packed.tokens, "fingerprint": packed.fingerprint},
    }


def _measure(work: HealWork) -> dict[str, Any]:
    """The start and the healed checkpoint, as they lie on disk, beside the parent on held-out text."""
    started, config = time.monotonic(), work.config
    trained = read_json(work.folder.trained)
    validation, blocks = work.validation_blocks, work.reported_blocks
    results: dict[str, dict[str, Any]] = {}
    for name, path in ((START, work.start), (HEALED, work.folder.model)):  # one at a time beside the parent
        model = work.load(path)
        work.progress.stage(f"evaluation: {name}", total=len(blocks.ids))
        own, found = evaluate_quality(
            *(ParentLayers(work.parent), {name: checkpoint_layers(work.source, path, model)}, blocks),
            progress=lambda done, _: work.progress.update(done),
        )
        results[name] = quality_record(found[name], *_sizes(work, model, path), config.seed)
        del model
    # What the histories end at best.
    taught, _ = evaluate_quality(ParentLayers(work.parent), {}, validation)
    return {
        "convention": CONVENTIONS[work.source.family.objective],
        "block_length": config.block_length,
        "targets": own.targets,
        "texts": {
            "trained": trained["text"],
            "validation": {**_text(validation), "parent_perplexity": taught.perplexity},
            "reported": _text(blocks),
        },
        "parent": quality_record(own, *_sizes(work, work.parent.model, work.source.directory), config.seed),
        "results": results,
        "steps": trained["steps"],
        "tokens": trained["tokens"],
        "stopped_early": trained["stopped_early"],
        "seconds": {"train": trained["seconds"], "evaluation": time.monotonic() - started},
    }


def _sizes(work: HealWork, model: PreTrainedModel, directory: Path) -> tuple[KVSize, int]:
    """Keys and values, and parameters."""
    return kv_size(work.source, model, directory), count_parameters(model)


def _text(blocks: TokenBlocks) -> dict[str, Any]:
    return {"source": blocks.source, "tokens": blocks.tokens, "fingerprint": blocks.fingerprint}


def _words(config: HealConfig, steps: int) -> str:
    """What the model card says of the training."""
    target = "its parent's predictions" if config.loss == "kl" else "text"
    what = {
        "all": "all parameters",
        "attention": "the attention weights",
        "lora": "LoRA on the attention weights, merged",
    }
    return (
        f"Then the model was healed: {what[config.train]} trained on {target} for {steps:,} steps of "
        f"{config.tokens_per_step:,} tokens."
    )


def _rewrite_card(work: HealWork, metrics: dict[str, Any]) -> None:
    """The start's card with the healed model's figures; the same however often it is written."""
    path = work.start / "README.md"
    if not path.is_file():
        return
    parent, mine = metrics["parent"], metrics["results"][HEALED]
    rows = card_rows(parent, mine, work.source.family.objective)
    facts = CardFacts(rows, measured_words(metrics), work.config.model_dump(mode="json"))
    card = healed_card(path.read_text(encoding="utf-8"), _words(work.config, metrics["steps"]), facts)
    write_file(work.folder.model / "README.md", card, overwrite=True)

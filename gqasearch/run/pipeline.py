"""The order of the steps: search, materialise, evaluate, report. Each leaves a file that says it is done."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from gqasearch.checkpoints import Layout, runs_own_code
from gqasearch.config import RunConfig
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_json
from gqasearch.fitness import to_numpy
from gqasearch.grouping_document import GroupingDocument, read_grouping
from gqasearch.parallel import ONE, Workers, parse_workers
from gqasearch.reporting.html import write_report
from gqasearch.run.finished_runs import report_data, write_similarity
from gqasearch.run.forecast import forecast, plan_words
from gqasearch.run.inputs import MODEL, hold_inputs, inputs_of
from gqasearch.run.listener import RunListener, RunStart
from gqasearch.run.run_folder import RunFolder
from gqasearch.run.search_log import failed_candidates, search_forward_tokens, search_seconds
from gqasearch.run.search_step import search_step
from gqasearch.run.stage_clock import LOAD, StageClock, stage_records
from gqasearch.steps.check_settings import check_run
from gqasearch.steps.convert import copies_beside, document_converter, materialize, refine_step
from gqasearch.steps.filled_slots import Convertible, convertible, layout_of
from gqasearch.steps.kv_bytes import decide, decision_words, options_notes, settled
from gqasearch.steps.measure import (
    BASELINE,
    CONVERTED,
    Subject,
    baseline_subject,
    checkpoint_subject,
    climb_state,
    grouping_subject,
)
from gqasearch.steps.measured_card import write_card
from gqasearch.steps.process_cache import ProcessCache
from gqasearch.steps.progress import Progress
from gqasearch.steps.rounded_caches import measure_run
from gqasearch.steps.warnings import warnings_of
from gqasearch.steps.workers import threads_of
from gqasearch.steps.workspace import Workspace
from gqasearch.threads import pinned


def default_output_dir(config: RunConfig) -> Path:
    """``runs/NAME``, the name made of what a user varies most."""
    model = "embedded" if config.model == "embedded" else Path(config.model).name
    if config.kv_heads is not None:
        budget = f"heads{config.kv_heads}"
    elif config.kv_budget is not None:
        budget = f"budget{config.kv_budget}"
    elif config.decides_format:
        budget = "bytes" if config.kv_bytes is None else f"bytes{config.kv_bytes:g}{'-uneven' if config.uneven else ''}"
        budget += "" if config.formats is None else f"-{config.formats.replace('/', '+').replace(',', '-')}"
    else:
        budget = f"ratio{0.5 if config.kv_ratio is None else config.kv_ratio:g}{'-uneven' if config.uneven else ''}"
    budget += f"-join{config.join}" if config.join > 1 else ""
    budget += "-separate" if config.separate_kv else ""
    budget += "" if config.kv_bits is None else f"-kv{config.kv_bits.replace('/', '+')}"
    objectives = "+".join(config.objectives)
    merge = config.merge if config.refine is None else f"{config.merge}+{config.refine}"
    return Path("runs") / f"{model}-{budget}-{objectives}-{merge}-{config.method}-seed{config.seed}"


def run(
    config: RunConfig,
    output_dir: Path,
    progress: Progress | None = None,
    cache: ProcessCache | None = None,
    listeners: Sequence[RunListener] = (),
    *,
    workers: int | str = 1,
    threads: int | None = None,
    memory: int | None = None,
    report: bool = True,
    tell: Callable[[str], object] = str,
) -> RunFolder:
    """The whole main job, into ``output_dir``; goes on where an interrupted run of the same settings stopped.

    ``cache``: what it shares with other runs of the process. ``listeners``: told of it as it goes. ``workers``: who
    runs candidates during the search: a number of processes, "ray" or "ray://HOST:PORT"; no setting, as it changes no
    result. ``threads``: CPU threads of each [default: what the run began with; see ``threads_of``]. ``memory``: bytes
    that it may take [default: what is free]; ``UserError`` names settings where that, or the disk, will not do.
    ``report``: write ``report.html``, which takes longer than a short search; ``gqasearch report`` makes it later.
    ``tell``: is given, before the work, a sentence on everything that will differ from what was asked for, and on what
    the run is expected to take.
    """
    folder = RunFolder(output_dir)
    asked = Workspace(config, progress, cache, folder.candidates)
    crew = parse_workers(workers)
    work = settled(asked, folder.decision)
    outlook = check_run(work, crew, threads)
    folder.check(asked.config)
    is_open = asked.config.decides_format and not folder.format.is_file()
    # Text and weights are read now for their errors, too, before there is a folder.
    notes = options_notes(asked) if is_open else [] if folder.grouping.is_file() else outlook.notes()
    is_written = folder.model.is_dir() or not work.config.materialize
    # Reads the texts, and says so now where one is short.
    inputs = {MODEL: work.source.identity} if folder.metrics.is_file() and is_written else inputs_of(work)
    work.parent  # noqa: B018
    plan = None if folder.metrics.is_file() else forecast(work, outlook, folder, parent=work.parent, memory=memory)
    folder.open(asked.config)
    for note in [*notes, *(f"{what}: {words}" for what, words in plan_words(plan))]:
        tell(note)
    lock = folder.acquire()
    if plan is not None:
        if not folder.plan.is_file():
            write_json(folder.plan, plan.record())
        asked.progress = work.progress = StageClock(work.progress, folder.stages)
    try:
        hold_inputs(folder.inputs, inputs, folder.path)
        if is_open:
            with pinned(threads_of(crew, threads)):
                decide(asked, folder.decision)
            work = settled(asked, folder.decision)
            for note in [decision_words(read_json(folder.format)), *check_run(work, crew, threads).notes()]:
                tell(note)
        run_steps(work, folder, crew, threads, listeners, report=report)
    finally:
        if isinstance(work.progress, StageClock):
            work.progress.close()
        lock.release()
    return folder


def run_steps(
    work: Workspace,
    folder: RunFolder,
    workers: Workers = ONE,
    threads: int | None = None,
    listeners: Sequence[RunListener] = (),
    *,
    report: bool = True,
) -> None:
    """Every step whose result is not there yet."""
    if listeners:
        start = RunStart(folder.path, work.asked.model_dump(mode="json"), folder.known_history())
        for listener in listeners:
            listener.on_start(start)
    if not folder.grouping.is_file():
        search_step(work, folder, workers, threads, listeners)
    document = read_grouping(folder.grouping)
    layout, _ = checkpoint_layout(work, document)
    if work.config.materialize and layout is not None and not folder.model.is_dir():
        materialize(work, document, folder.model, refined_in=folder.refined)
    if not folder.metrics.is_file():
        evaluate_step(work, folder, document)
    for done in (folder.candidates, folder.refined, folder.measured):
        shutil.rmtree(done, ignore_errors=True)
    if report and not folder.report.is_file():
        work.progress.stage("report")
        write_report(folder.report, report_data([folder]))
    for listener in listeners:
        listener.on_metrics(read_json(folder.metrics))


def checkpoint_layout(work: Workspace, document: GroupingDocument) -> tuple[Layout | None, str]:
    """The layout of a grouping's checkpoint, None when it can have none; and why, in one sentence."""
    try:
        layout = layout_of(work, document)
    except UserError as error:
        return None, str(error)
    return layout, layout.reason


def evaluate_step(work: Workspace, folder: RunFolder, document: GroupingDocument) -> None:
    """Measure and write ``metrics.json``; the checkpoint's model card then tells the figures."""
    is_written = folder.model.is_dir()
    made_in = convertible(work, document, copies_beside(folder.refined))
    with nullcontext(Convertible(work, document)) if is_written else made_in as made:
        metrics = _measured(work, folder, document, _converted(made, folder))
    metrics |= stage_records(work.progress, search_seconds(folder))
    metrics["planned"] = read_json(folder.plan) if folder.plan.is_file() else None
    metrics["forward_tokens"] = search_forward_tokens(folder)
    if work.asked.decides_format:
        metrics["decision"] = read_json(folder.format)
    metrics["warnings"] = [*warnings_of(work), *failed_candidates(folder)]
    layout, reason = checkpoint_layout(work, document)
    made_of = {"layout": layout.name if layout else None, "reason": reason}
    metrics["checkpoint"] = made_of if work.config.materialize else None
    if "statistics" in work.needs():
        keys, values = [], []
        for index in range(len(document.partitions)):  # one in memory at a time
            layer = work.statistics.layer(index)
            keys.append(to_numpy(layer.key_cosine))
            values.append(to_numpy(layer.value_cosine))
        write_similarity(folder.similarity, np.stack(keys), np.stack(values))
    write_json(folder.metrics, metrics, overwrite=True)
    if folder.model.is_dir() and layout is not None:
        write_card(work, folder.model, document, layout, metrics)


def _converted(made: Convertible, folder: RunFolder) -> Subject:
    """The run's checkpoint, or the grouping run in its parent where none was written."""
    work, document = made.work, made.document
    if folder.model.is_dir():
        work.progress.stage(LOAD)
        return own_subject(work, folder.model)
    converter = document_converter(work, document)
    refined = refine_step(work, converter, document, folder.refined)
    work.progress.stage("convert")
    return grouping_subject(work, converter, document.partitions, refined)


def _measured(work: Workspace, folder: RunFolder, document: GroupingDocument, converted: Subject) -> dict[str, Any]:
    """The figures of the conversion and of the baseline, with rounded caches where that was asked for."""
    subjects = {CONVERTED: converted}
    if work.config.baseline and not _is_baseline(work.config):
        subjects[BASELINE] = baseline_subject(work)
    return measure_run(work, subjects, lambda whole: climb_state(work, document, whole, folder.measured))


def own_subject(work: Workspace, directory: Path) -> Subject:
    """The checkpoint that this run wrote. Code that it needs is run, if it still is what this program writes."""
    return checkpoint_subject(work, directory, trust_remote_code=runs_own_code(directory))


def _is_baseline(config: RunConfig) -> bool:
    return config.method == "neighbour" and config.merge == "mean" and config.refine == "none"

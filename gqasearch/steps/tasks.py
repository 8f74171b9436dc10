"""Tasks on a checkpoint and its parent: our own offline one, and through lm-eval any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gqasearch.embedded import ChoiceItem
from gqasearch.embedded.identifiers import NAME, identifier_items
from gqasearch.errors import UserError
from gqasearch.evaluation import model_runner
from gqasearch.evaluation.choices import ChoiceScores, score_choices, share_and_error
from gqasearch.evaluation.harness import TaskScore, check_tasks, harness_version, require_harness, run_harness
from gqasearch.steps.measure import CONVERTED, checkpoint_model
from gqasearch.steps.workspace import Workspace

OWN_TASKS: dict[str, Callable[[], list[ChoiceItem]]] = {NAME: identifier_items}
PARENT = "parent"


def measure_tasks(
    work: Workspace,
    directory: Path,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Figures of the parent and of the checkpoint in ``directory``, JSON-able; both get the parent's tokens.

    ``scores``: one record per task and metric, with ``parent``, ``converted`` and their ``_stderr`` (None where there
    is none). Our own tasks need no lm-eval. Raises ``UserError`` for a task that is not known or cannot be run, or a
    checkpoint as ``checkpoint_subject`` does.
    """
    others = check_known_tasks(tasks)
    _tokenizer(work)  # for its errors, before a checkpoint is read
    models = {
        PARENT: work.parent.model,
        CONVERTED: checkpoint_model(work, directory, trust_remote_code=trust_remote_code),
    }
    found = {name: task_scores(work, name, model, tasks, limit=limit) for name, model in models.items()}
    return {
        "limit": limit,
        "lm_eval": harness_version() if others else None,
        "scores": [_record(mine, theirs) for mine, theirs in zip(found[PARENT], found[CONVERTED], strict=True)],
    }


def check_known_tasks(tasks: Sequence[str]) -> list[str]:
    """Those of lm-eval among ``tasks``; raises ``UserError`` where it is not there or does not know one of them."""
    others = [task for task in tasks if task not in OWN_TASKS]
    if others:
        require_harness(others, list(OWN_TASKS))
        check_tasks(others)
    return others


def task_scores(
    work: Workspace, name: str, model: PreTrainedModel, tasks: Sequence[str], *, limit: int | None = None
) -> list[TaskScore]:
    """Figures of one ``model``, called ``name``, on the parent's tokens; ``tasks`` as ``check_known_tasks`` takes them.

    ``limit``: items of every task, the first ones.
    """
    own, others = [t for t in tasks if t in OWN_TASKS], [t for t in tasks if t not in OWN_TASKS]
    tokenizer = _tokenizer(work)
    found = [score for task in own for score in _own_scores(work, name, model, tokenizer, task, limit)]
    if others:
        work.progress.stage(f"{', '.join(others)}, {name}")
        found += run_harness(model, tokenizer, others, limit=limit, batch=work.config.batch_blocks)
    return found


def _tokenizer(work: Workspace) -> PreTrainedTokenizerBase:
    if work.parent.family.objective != "next-token":
        raise UserError(f"tasks need a model that predicts the next token; {work.parent.id} predicts masked ones")
    if work.parent.tokenizer is None:
        raise UserError(f"model {work.parent.id} has no tokenizer")
    return work.parent.tokenizer


def _own_scores(
    work: Workspace, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str, limit: int | None
) -> list[TaskScore]:
    items = OWN_TASKS[task]()[:limit]
    work.progress.stage(f"{task}, {name}", total=len(items))
    family, config = work.parent.family, work.parent.config
    scores: ChoiceScores = score_choices(
        model_runner(model),
        tokenizer,
        items,
        context_length=family.context_length(config),
        vocabulary=family.vocabulary(config),
        short_length=family.short_length(config),
        progress=lambda done, _: work.progress.update(done),
    )
    figures = {"acc": share_and_error(scores.right), "acc_norm": share_and_error(scores.right_by_length)}
    return [
        TaskScore(task, metric, value, error if math.isfinite(error) else None, len(items))
        for metric, (value, error) in figures.items()
    ]


def _record(parent: TaskScore, converted: TaskScore) -> dict[str, Any]:
    return {
        "task": parent.task,
        "metric": parent.metric,
        "items": parent.items,
        PARENT: parent.value,
        f"{PARENT}_stderr": parent.stderr,
        CONVERTED: converted.value,
        f"{CONVERTED}_stderr": converted.stderr,
    }

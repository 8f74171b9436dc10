"""Any task of lm-eval (EleutherAI/lm-evaluation-harness), on a model that is loaded already.

lm-eval is an extra: where it is not installed, ``require_harness`` says so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gqasearch.embedded import tasks_directory
from gqasearch.errors import UserError, unknown_name


@dataclass(frozen=True)
class TaskScore:
    """One figure of one task; ``stderr``: its standard error, None where the task gives none."""

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int | None


def require_harness(tasks: Sequence[str], without: Sequence[str]) -> None:
    """Raise ``UserError`` where lm-eval is not installed. ``without``: tasks that do not need it."""
    if find_spec("lm_eval") is None:
        raise UserError(
            f"{', '.join(tasks)}: tasks of lm-eval, which is not installed: pip install 'gqasearch[eval]'. "
            f"Without it: {', '.join(without)}"
        )


def harness_version() -> str:
    """The version of lm-eval that is installed."""
    return version("lm_eval")


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise ``UserError`` for a task, group or tag that lm-eval does not know."""
    known = _task_manager().all_tasks
    for task in tasks:
        if task not in known:
            raise _unknown(task, known)


def run_harness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch: int = 8,
) -> list[TaskScore]:
    """Every figure that lm-eval gives for ``tasks``, groups included. ``limit``: items of every task, the first ones.

    Code that a task would run from elsewhere is not allowed. Raises ``UserError`` with what lm-eval said when it fails,
    as for a task whose data cannot be fetched.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    if (tokenizer.pad_token_id or 0) >= model.config.get_text_config().vocab_size:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.eos_token  # its own was added and the model not resized; it never counts
    try:
        subject = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch)
        found = simple_evaluate(
            model=subject,
            tasks=list(tasks),
            limit=limit,
            log_samples=False,
            bootstrap_iters=1000,
            task_manager=_task_manager(),
        )
    except Exception as error:
        raise UserError(f"lm-eval could not run {', '.join(tasks)}: {error}") from error
    if found is None:  # in all processes but the first of several
        return []
    return [score for task, figures in found["results"].items() for score in _scores(task, figures, found)]


def _task_manager() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(tasks_directory()))


def _unknown(task: str, known: Sequence[str]) -> UserError:
    """lm-eval has thousands of tasks: the nearest is named, the others are not."""
    message = str(unknown_name("task", task, known)).partition(" Known: ")[0]
    return UserError(f"{message} lm_eval ls tasks lists all")


def _scores(task: str, figures: dict[str, Any], found: dict[str, Any]) -> list[TaskScore]:
    """Keys are "METRIC,FILTER", errors "METRIC_stderr,FILTER"."""
    items = found.get("n-samples", {}).get(task, {}).get("effective")
    scores = []
    for key, value in figures.items():
        name, _, filtered = key.partition(",")
        if not filtered or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = figures.get(f"{name}_stderr,{filtered}")
        known = float(error) if isinstance(error, int | float) and math.isfinite(error) else None
        metric = name if filtered == "none" else f"{name}, {filtered}"
        scores.append(TaskScore(task, metric, float(value), known, items))
    return scores

"""Train a student: put together the trainer, go on where an earlier process stopped, hold empty slots at zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gqasearch.heal_config import HealConfig
from gqasearch.healing.attention_match import AttentionMatch
from gqasearch.healing.between import Between, trained_parameters
from gqasearch.healing.empty_slots import find_empty_slots
from gqasearch.healing.state import HealState, latest_state
from gqasearch.healing.teacher import Teacher
from gqasearch.healing.trained_part import merged, train_only
from gqasearch.healing.trainer import arguments, make_trainer
from gqasearch.healing.training_blocks import TrainingBlocks
from gqasearch.healing.training_loss import TrainingLoss
from gqasearch.healing.validation import Validation
from gqasearch.models import Family


@dataclass(frozen=True)
class Student:
    """The model that is trained. ``family``: tells where its modules are; ``head_dim``: the size of one query head."""

    model: nn.Module
    family: Family
    layers: int
    head_dim: int


@dataclass(frozen=True)
class Lessons:
    """What a student is trained on: the blocks, and the teacher whose predictions it is to make.

    ``teacher``: None where it learns the text itself, by the language-model loss. ``validation``: text that is measured
    on and never trained on. ``parent``: the unconverted model, given where the outputs of its attention are matched,
    too.
    """

    data: TrainingBlocks
    teacher: Teacher | None
    validation: Validation
    parent: nn.Module | None = None


@dataclass(frozen=True)
class Trained:
    """The result of training: the model with what was trained merged into its own weights.

    ``history``: a record for every measurement; ``steps``: how many steps were made; ``stopped_early``: fewer than
    asked.
    """

    model: nn.Module
    history: list[dict[str, Any]]
    steps: int
    stopped_early: bool


def train(
    config: HealConfig,
    student: Student,
    lessons: Lessons,
    state_folder: Path,
    processes: int = 1,
    on_step: Callable[[int, list[dict[str, Any]]], None] = lambda _step, _history: None,
) -> Trained:
    """Train ``student`` with the settings of ``config``.

    Progress is saved in ``state_folder``. If an earlier process was stopped there, training continues from its last
    saved step; on one device the result has the same bits as without the stop. ``processes``: how many train together.
    ``on_step(step, history)`` is called after every step. Raises ``UserError`` when the loss is no longer finite.
    """
    resumed = latest_state(state_folder)
    model = _prepare(config, student, resumed)
    match = None
    if lessons.parent is not None and config.attention_weight:
        paths = [student.family.attention_path(layer) for layer in range(student.layers)]
        match = AttentionMatch(student.model, lessons.parent, paths)
    training_loss = TrainingLoss(lessons.teacher, match, config.attention_weight)
    done = 0 if resumed is None else resumed.step
    between = Between(
        config,
        training_loss,
        lessons.validation,
        state_folder,
        model,
        resumed,
        on_step,
        lambda step: _move(config, student, progress_of_merge(config, step)),
        lambda: _move(config, student, 1.0),  # on the way, heads have what no checkpoint has
    )
    if resumed is not None:
        between.history, between.best = list(resumed.history), resumed.best
    if done < config.steps and not between.is_over():
        data = replace(lessons.data, first=done * config.batch_blocks)
        make_trainer(model, training_loss, data, between, arguments(config, processes, state_folder)).train()
    if config.patience is not None and between.best is not None:
        _put(model, between.best)
    last = between.history[-1]["step"]
    return Trained(merged(model), between.history, last, last < config.steps)


def _prepare(config: HealConfig, student: Student, resumed: HealState | None) -> Any:
    """The model with its trained part, empty slots held, and the weights of an earlier process."""
    model = student.model if config.progressive else _with_part(config, student)
    if resumed is not None:
        _put(model, resumed.trained)
    return model


def _with_part(config: HealConfig, student: Student) -> Any:
    """The model with what is not trained frozen. On its way to the start, all that it has is trained."""
    empty = find_empty_slots(student.model, student.family, student.layers, student.head_dim)
    model = train_only(student.model, config.train, student.family, student.layers, config.lora_rank, config.seed)
    empty.hold_zero(student.model)
    if config.gradient_checkpointing:
        inner: Any = student.model
        newer = getattr(inner, "activation_checkpointing_enable", None)  # transformers' later name
        (newer or inner.gradient_checkpointing_enable)()
        inner.enable_input_require_grads()  # frozen embeddings would cut the graph
    return model


def _put(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set the trained parameters."""
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            parameter.copy_(values[name])


def progress_of_merge(config: HealConfig, step: int) -> float:
    """How far heads are on their way to the shared one before ``step``, 0 to 1."""
    return 1.0 if step >= config.moving_steps else step / config.moving_steps


def _move(config: HealConfig, student: Student, share: float) -> None:
    if config.progressive:
        student.model.set_share(share)  # type: ignore[operator]

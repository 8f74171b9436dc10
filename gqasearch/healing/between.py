"""What happens between the steps of training: measure, write down, save, stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gqasearch.errors import UserError
from gqasearch.heal_config import HealConfig
from gqasearch.healing.state import HealState, random_state, save_state, set_random_state
from gqasearch.healing.training_loss import TrainingLoss
from gqasearch.healing.validation import Validation


@dataclass
class Between(TrainerCallback):
    """What happens between two steps of training: measuring, saving, and stopping early.

    ``resumed``: the state that an earlier process saved, None for a new training. ``on_step(step, history)`` is called
    after every step, ``before_step(step)`` before it. ``as_written()`` is called before a measurement: it gives the
    model the form that the checkpoint will have.
    """

    config: HealConfig
    training_loss: TrainingLoss
    validation: Validation
    state_folder: Path
    model: nn.Module
    resumed: HealState | None
    on_step: Callable[[int, list[dict[str, Any]]], None]
    before_step: Callable[[int], None]
    as_written: Callable[[], None]
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    started: float = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.resumed is not None:
            kwargs["optimizer"].load_state_dict(self.resumed.optimizer)
            kwargs["lr_scheduler"].load_state_dict(self.resumed.schedule)
            state.global_step = self.resumed.step
        self.started = time.monotonic() - (self.history[-1]["seconds"] if self.history else 0.0)
        if not self.history:
            self._measure(args, state, kwargs)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.resumed is not None and state.global_step == self.resumed.step:
            # Not before: the data loader, made anew, has drawn a number that the first process did not.
            set_random_state(self.resumed.random, args.device)
        self.before_step(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.config.evaluate_every == 0 or state.global_step == self.config.steps:
            self._measure(args, state, kwargs)
            if self.is_over():
                control.should_training_stop = True
        self.on_step(state.global_step, self.history)

    def _measure(self, args: TrainingArguments, state: TrainerState, kwargs: Mapping[str, Any]) -> None:
        """One process measures, all go by what it found."""
        step = state.global_step
        self.as_written()
        line: list[Any] = [None]
        if args.process_index == 0:
            found = self.validation.measure(self.model)
            line = [
                {
                    "step": step,
                    "tokens": step * self.config.tokens_per_step,
                    "seconds": round(time.monotonic() - self.started, 3),
                    "loss": self.training_loss.mean_since(),
                    "learning_rate": kwargs["lr_scheduler"].get_last_lr()[0],
                    "kl": found.kl,
                    "perplexity": found.perplexity,
                }
            ]
        if args.world_size > 1:
            broadcast_object_list(line)
        self._refuse_divergence(line[0])
        self.history.append(line[0])
        if self.config.patience is not None and self.history[-1]["kl"] == min(one["kl"] for one in self.history):
            self.best = {name: value.detach().cpu().clone() for name, value in trained_parameters(self.model).items()}
        if args.process_index == 0:
            self._save(step, args, kwargs)

    def _refuse_divergence(self, line: Mapping[str, Any]) -> None:
        if not all(abs(line[name]) < float("inf") for name in ("kl", "perplexity")):
            raise UserError(
                f"training diverged before step {line['step']}: the model's loss is not finite. Use a smaller "
                f"--learning-rate than {self.config.learning_rate:g}; --find-learning-rate shows which ones work"
            )

    def _save(self, step: int, args: TrainingArguments, kwargs: Mapping[str, Any]) -> None:
        save_state(
            self.state_folder,
            HealState(
                step,
                trained_parameters(self.model),
                kwargs["optimizer"].state_dict(),
                kwargs["lr_scheduler"].state_dict(),
                self.history,
                self.best,
                random_state(args.device),
            ),
        )

    def is_over(self) -> bool:
        """Whether the best KL is ``patience`` measurements old. While heads still move, no end is in sight."""
        patience, arrival = self.config.patience, self.config.moving_steps
        values = [line["kl"] for line in self.history if line["step"] >= arrival]
        return patience is not None and len(values) > patience and min(values) < min(values[-patience:])


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Name -> value of what is trained."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

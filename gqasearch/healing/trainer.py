"""The training loop is transformers' own; here is what it minimises, and what happens between steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gqasearch.calibration import Targets
from gqasearch.errors import UserError
from gqasearch.healing.attention_match import AttentionMatch
from gqasearch.healing.config import HealConfig
from gqasearch.healing.state import HealState, random_state, save_state, set_random_state
from gqasearch.healing.teacher import Teacher, masked_mean
from gqasearch.healing.validation import Validation


@dataclass
class Objective:
    """What is minimised. ``teacher``: None for the language-model loss; ``match``: with ``weight`` on top of it."""

    teacher: Teacher | None
    match: AttentionMatch | None = None
    weight: float = 0.0
    summed: float = 0.0
    passes: int = 0

    def __call__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Mean loss over the targets of a batch."""
        ids = inputs["input_ids"]
        targets = targets_of(ids, inputs.get("labels"))
        scores = targets.of(model(input_ids=ids, use_cache=False).logits).float()
        if self.teacher is None:
            lost = nn.functional.cross_entropy(scores.flatten(0, 1), targets.tokens.flatten(), reduction="none")
            loss = masked_mean(lost.view_as(targets.wanted), targets.wanted)
        else:
            loss = self.teacher.kl(inputs["index"], ids, targets, scores)
        if self.match is not None:
            loss = loss + self.weight * self.match.error()
        self.summed += float(loss.detach())
        self.passes += 1
        return loss

    def mean_since(self) -> float | None:
        """Mean loss since this was asked last; None where nothing was run."""
        mean = self.summed / self.passes if self.passes else None
        self.summed, self.passes = 0.0, 0
        return mean


def targets_of(ids: Tensor, labels: Tensor | None) -> Targets:
    """What a batch of whole blocks (B, T) asks for."""
    if labels is not None:
        return Targets.labelled(labels)
    return Targets.following(ids, torch.ones_like(ids, dtype=torch.bool))


class HealingTrainer(Trainer):
    """Minimises an ``Objective``."""

    def __init__(self, objective: Objective, **options: Any) -> None:
        super().__init__(**options)
        self.objective: Objective = objective
        self.loss_is_scaled_for_ga = False  # a mean per pass, to be divided by the passes of a step
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        loss = self.objective(model, inputs)
        return (loss, None) if return_outputs else loss


@dataclass
class Between(TrainerCallback):
    """What happens between steps: measure, write down, save, stop.

    ``resumed``: where an earlier process stopped; ``on_step(step, history)``: told of every step;
    ``before_step(step)``: called before each, and before every measurement.
    """

    config: HealConfig
    objective: Objective
    validation: Validation
    state_folder: Path
    model: nn.Module
    resumed: HealState | None
    on_step: Callable[[int, list[dict[str, Any]]], None]
    before_step: Callable[[int], None]
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
            set_random_state(self.resumed.random, args.device)
        self.started = time.monotonic() - (self.history[-1]["seconds"] if self.history else 0.0)
        if not self.history:
            self._measure(args, state, kwargs)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
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
        self.before_step(step)
        line: list[Any] = [None]
        if args.process_index == 0:
            found = self.validation.measure(self.model)
            line = [
                {
                    "step": step,
                    "tokens": step * self.config.tokens_per_step,
                    "seconds": round(time.monotonic() - self.started, 3),
                    "loss": self.objective.mean_since(),
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
        """Whether the best KL is ``patience`` measurements old."""
        patience, values = self.config.patience, [line["kl"] for line in self.history]
        return patience is not None and len(values) > patience and min(values) < min(values[-patience:])


def trained_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Name -> value of what is trained."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def arguments(config: HealConfig, processes: int, folder: Path) -> TrainingArguments:
    """The settings in transformers' words. Raises ``UserError`` where the blocks cannot be shared by the processes."""
    size = config.batch_blocks if config.pass_blocks is None else config.pass_blocks
    size = min(size, config.batch_blocks // processes) or 1
    if config.batch_blocks % (size * processes):
        raise UserError(
            f"batch_blocks {config.batch_blocks} cannot be shared by {processes} processes with {size} blocks per "
            f"pass; give a multiple of {size * processes}"
        )
    made = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=config.batch_blocks // (size * processes),
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * config.steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.gradient_norm,
        bf16=config.precision == "bfloat16",
        use_cpu=config.device == "cpu",
        seed=config.seed,
        train_sampling_strategy="sequential",  # the order is the data set's own
        dataloader_pin_memory=config.device.startswith("cuda"),
        remove_unused_columns=False,
        eval_strategy="no",
        save_strategy="no",  # transformers saves pickles; HealState does not
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    made._n_gpu = min(made.n_gpu, 1)  # noqa: SLF001 - one GPU per process: several in one would change what a batch is
    return made


def stack(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of a data set to a batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def make_trainer(
    model: Any, objective: Objective, data: Dataset[dict[str, Tensor]], between: Between, args: TrainingArguments
) -> HealingTrainer:
    """The trainer, ready to go."""
    return HealingTrainer(
        objective, model=model, args=args, train_dataset=data, data_collator=stack, callbacks=[between]
    )

"""The training loop is transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from gqasearch.errors import UserError
from gqasearch.heal_config import HealConfig
from gqasearch.healing.between import Between
from gqasearch.healing.training_loss import TrainingLoss


def decays(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix; norms of heads that have their own are none, though they lie side by side."""
    return parameter.ndim > 1 and "norm" not in name


class HealingTrainer(Trainer):
    """Minimises an ``TrainingLoss``."""

    def __init__(self, training_loss: TrainingLoss, **options: Any) -> None:
        super().__init__(**options)
        self.training_loss: TrainingLoss = training_loss
        self.loss_is_scaled_for_ga = False  # a mean per pass, to be divided by the passes of a step
        self.remove_callback(PrinterCallback)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices alone. transformers knows norms by their modules, which a ``ProgressiveParent`` does not show."""
        parameters = dict(model.named_parameters())
        named = super().get_decay_parameter_names(model)
        return [name for name in named if name in parameters and decays(name, parameters[name])]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        loss = self.training_loss(model, inputs)
        return (loss, None) if return_outputs else loss


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
    model: Any, training_loss: TrainingLoss, data: Dataset[dict[str, Tensor]], between: Between, args: TrainingArguments
) -> HealingTrainer:
    """The trainer, ready to go."""
    return HealingTrainer(
        training_loss, model=model, args=args, train_dataset=data, data_collator=stack, callbacks=[between]
    )

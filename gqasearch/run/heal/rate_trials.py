"""The range test of learning rates on a run's own model, text and loss."""

from __future__ import annotations

import tempfile
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.heal_config import HealConfig
from gqasearch.healing.empty_slots import find_empty_slots
from gqasearch.healing.rate_search import STEPS, TriedRates, range_test
from gqasearch.healing.trained_part import train_only
from gqasearch.healing.training_loss import TrainingLoss
from gqasearch.run.heal.heal_folder import HealFolder
from gqasearch.run.heal.process_group import Ranks
from gqasearch.run.heal.work import HealWork
from gqasearch.steps.progress import NoProgress, Progress

# Settings that the test goes by; any other would be ignored.
USED = {
    *("model", "parent", "revision", "text", "evaluation_text", "loss", "train", "lora_rank", "weight_decay"),
    *("gradient_norm", "batch_blocks", "block_length", "device", "seed"),
}


def try_learning_rates(config: HealConfig, progress: Progress | None = None) -> TriedRates:
    """Learning rates from the smallest up, on the start; nothing is kept. Raises ``UserError`` for what it ignores."""
    for name, field in HealConfig.model_fields.items():
        if name not in USED and getattr(config, name) != field.get_default():
            raise UserError(f"--find-learning-rate has no use for {name}; leave it out")
    ranks = Ranks.of_environment()
    if ranks.world > 1:
        raise UserError("--find-learning-rate runs in one process; start it without torchrun")
    steps = config.model_copy(update={"steps": STEPS})
    with tempfile.TemporaryDirectory() as scratch:
        work = HealWork(steps, HealFolder(Path(scratch)), ranks, progress or NoProgress())
        work.check()
        student = work.student()
        empty = find_empty_slots(student.model, student.family, student.layers, student.head_dim)
        model = train_only(student.model, config.train, student.family, student.layers, config.lora_rank, config.seed)
        empty.hold_zero(student.model)
        data, training_loss = work.data, TrainingLoss(work.teacher())
        work.progress.stage("learning rates", total=STEPS)
        return range_test(
            *(model, training_loss, data, config.batch_blocks),
            weight_decay=config.weight_decay,
            gradient_norm=config.gradient_norm,
            progress=lambda done, _: work.progress.update(done),
        )

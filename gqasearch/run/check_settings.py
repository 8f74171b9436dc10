"""What of a run's settings can be refused without long work and without the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gqasearch.checkpoints import check_target
from gqasearch.errors import UserError
from gqasearch.evaluation import pooling_of
from gqasearch.models import check_device
from gqasearch.run.objective import check_objective

if TYPE_CHECKING:
    from gqasearch.run.workspace import Workspace


def check_settings(work: Workspace) -> None:
    """Fail early on everything that can be checked without long work and without the weights."""
    check_device(work.config.device)
    check_objective(work.source, work.fitnesses.values(), work.refinement)
    if work.source.family.objective != "next-token":
        pooling_of(work.source.directory)  # for its errors, as the rest
    work.merge  # noqa: B018
    work.budget  # noqa: B018
    _check_target(work)
    if work.config.join > 1 and work.merge.name != "optimal":
        raise UserError(
            f"--join {work.config.join} needs --merge optimal: merge {work.merge.name} makes one head of a group's "
            "heads, and would leave the room of the others empty"
        )
    if _same_text(work.config.evaluation_text, work.config.calibration_text):
        raise UserError(
            f"evaluation_text and calibration_text are both {work.config.evaluation_text}: results must be "
            "reported on text that was not searched on. Leave evaluation_text out to hold a part of it back"
        )
    limit = work.source.family.context_length(work.source.config)
    if limit is not None and work.config.block_length > limit:
        raise UserError(f"--block-length {work.config.block_length} is beyond this model's context of {limit}")


def _check_target(work: Workspace) -> None:
    config, source = work.config, work.source
    if config.target is not None and config.materialize:
        uneven = config.layers_may_differ or work.method.splits_budget
        equal = config.equal_sizes or work.budget.has_equal_sizes
        check_target(config.target, source.family, source.config, uneven=uneven, equal_sizes=equal)


def _same_text(one: str | None, other: str) -> bool:
    """Whether two names are of one text: the same word, or paths and links to the same file or folder."""
    if one is None or "embedded" in (one, other):
        return one == other
    return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()

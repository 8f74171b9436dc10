"""What of a run's settings can be refused without long work and without the weights."""

from __future__ import annotations

from pathlib import Path

from gqasearch.checkpoints import check_target
from gqasearch.errors import UserError
from gqasearch.evaluation import pooling_of
from gqasearch.models import check_device
from gqasearch.parallel import ONE, Workers
from gqasearch.searching import check_takes
from gqasearch.steps.certify import check_certifiable
from gqasearch.steps.filled_slots import check_fill_slots
from gqasearch.steps.model_kinds import check_objective
from gqasearch.steps.outlook import Outlook
from gqasearch.steps.rounded_caches import check_kv_bits
from gqasearch.steps.separate import check_separate
from gqasearch.steps.workers import check_workers
from gqasearch.steps.workspace import Workspace


def check_run(work: Workspace, workers: Workers = ONE, threads: int | None = None) -> Outlook:
    """Refuse what cannot be run, as far as it can be told without the weights; what the run will come to."""
    outlook = Outlook(work)
    check_settings(work)
    check_separate(work)
    check_kv_bits(work)
    check_fill_slots(work)
    outlook.check()
    if outlook.problem is not None:
        check_takes(work.method, outlook.problem)
        check_certifiable(work, outlook.problem)
    check_workers(work, workers, threads)
    return outlook


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

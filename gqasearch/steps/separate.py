"""Keys and values grouped apart: what a search sees, what it makes of the model, and what cannot go with it."""

from __future__ import annotations

from gqasearch.errors import UserError
from gqasearch.fitness import PreparedGroupFitness
from gqasearch.steps.unmeasured_problem import prepared_kind
from gqasearch.steps.workspace import Workspace

SUMMED = (
    "--separate-kv with {what} needs a fitness that measures the whole model (--method staged does): summed errors "
    "mislead where keys and values trade heads, and {fitness} is one. Give --kv-ratio alone, or --kv-heads, for as "
    "many key heads as value heads"
)


def check_separate(work: Workspace) -> None:
    """Raise ``UserError`` for what cannot go with ``--separate-kv``; nothing where that is not asked for."""
    config = work.config
    if not config.separate_kv:
        return
    for name, fitness in work.fitnesses.items():
        if not fitness.takes_sides:
            raise UserError(f"--separate-kv: fitness {name} knows one partition of a layer's heads, not two")
    first = work.fitnesses[config.fitness]
    traded = {
        "--uneven": config.uneven,
        "--kv-budget": config.kv_budget is not None,
        "objective kv-ratio": config.has_free_counts,
    }
    if work.method.splits_budget:
        raise UserError(
            f"--separate-kv: method {work.method.name} splits the budget by summed errors, which mislead where keys "
            "and values trade heads; take another method"
        )
    kind = prepared_kind(first)
    is_sum = kind is None or issubclass(kind, PreparedGroupFitness)
    for what, given in traded.items():
        if given and is_sum:
            raise UserError(SUMMED.format(what=what, fitness=first.name))

"""What a model predicts decides which texts it reads, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterable

from gqasearch.embedded import Split
from gqasearch.errors import UserError
from gqasearch.fitness import Fitness, available_fitness
from gqasearch.models import ModelSource, Objective
from gqasearch.refining import REFINEMENT_REGISTRY, Refinement

# Models in words, by what they predict.
GIVING: dict[Objective, str] = {
    "next-token": "with a head",
    "masked": "with a head",
    "hidden-states": "without a head",
}
# Share of the statistics' blocks with mask tokens of an encoder that has a head: measured, see docs/sources.md.
MASKED_BLOCKS = 0.5


def masked_share(objective: Objective, split: Split, given: float | None) -> float:
    """The share of a text's blocks that have mask tokens. ``given``: the setting, which is of the statistics' text.

    Figures and fitness of an encoder are of what its head reads; without a head it reads plain text.
    """
    if split == "calibration" and given is not None:
        return given
    if objective == "hidden-states":
        return 0.0
    return MASKED_BLOCKS if split == "calibration" else 1.0


def check_objective(source: ModelSource, fitnesses: Iterable[Fitness], refinement: Refinement) -> None:
    """Raise ``UserError`` for a fitness or a refinement that asks of the model what it does not give."""
    objective = source.family.objective
    for fitness in fitnesses:
        if objective not in fitness.objectives:
            others = [name for name, one in available_fitness().items() if objective in one.objectives]
            raise _refusal(f"fitness {fitness.name}", fitness.objectives[0], source, others)
    if objective not in refinement.objectives:
        others = [name for name, one in REFINEMENT_REGISTRY.available().items() if objective in one.objectives]
        raise _refusal(f"refinement {refinement.name}", refinement.objectives[0], source, others)


def _refusal(what: str, taken: Objective, source: ModelSource, others: Iterable[str]) -> UserError:
    return UserError(
        f"{what} is for models {GIVING[taken]}, and {source.directory.name} is one {GIVING[source.family.objective]}; "
        f"take one of {', '.join(sorted(others))}"
    )

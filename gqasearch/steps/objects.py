"""Objects in place of those that a configuration names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gqasearch.config import RunConfig
from gqasearch.fitness import Fitness
from gqasearch.merging import Merge, make_merge
from gqasearch.refining import Refinement
from gqasearch.searching import SearchMethod


@dataclass(frozen=True)
class Objects:
    """Each is taken where it is given; None, and a fitness that is not there, are made from the configuration.

    ``fitnesses``: by the names of the objectives.
    """

    fitnesses: Mapping[str, Fitness] = field(default_factory=dict)
    merge: Merge | None = None
    refinement: Refinement | None = None
    method: SearchMethod | None = None


def with_refinement(config: RunConfig) -> RunConfig:
    """The same settings with the refinement named."""
    if config.refine is not None:
        return config
    merge = make_merge(config.merge, config.merge_parameters)
    return config.model_copy(update={"refine": merge.default_refinement})

"""The contract of a fitness function, and the registry.

A fitness gives a number for a candidate; lower is better, always. The three kinds nest: a pairwise
fitness is a group fitness, a group fitness is a model fitness, so every search method takes every
fitness, and exact methods say that they need the stronger kind::

    Fitness        evaluate(groupings) -> (N,)              any function of whole groupings
    GroupFitness   group_error(layer, heads) -> float       a sum over groups of a set function
    PairwiseFitness  distances(layer) -> (H, H)             group_error = sum_{i<j in S} D_ij / size of S

A fitness is a frozen dataclass: its fields are its parameters, nothing else. ``prepare`` returns the
fitness bound to a model (:class:`PreparedFitness` and its two subclasses) and leaves itself unchanged.
Built-in and third-party functions alike are found by the entry-point group ``gqasearch.fitness``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from gqasearch.calibration import Statistics, TokenBlocks
from gqasearch.contract import PreparedFitness as PreparedFitness
from gqasearch.contract import PreparedGroupFitness as PreparedGroupFitness
from gqasearch.contract import PreparedPairwiseFitness as PreparedPairwiseFitness
from gqasearch.contract import PreparedTextFitness as PreparedTextFitness
from gqasearch.grouping import Grouping
from gqasearch.merging import Merge, Need
from gqasearch.models import OBJECTIVES, LayerWeights, Objective, Parent
from gqasearch.pairwise import FloatArray as FloatArray
from gqasearch.refining import NoRefinement, Refinement
from gqasearch.registry import Registry
from gqasearch.rounding import KVFormat
from gqasearch.separate_grouping import SIDES, AnyGrouping, SeparateGrouping, Side

ENTRY_POINT_GROUP = "gqasearch.fitness"


@dataclass(frozen=True)
class FitnessContext:
    """What a fitness may look at while it prepares.

    ``statistics`` come from the calibration text, ``search_blocks`` from the search text: neither is the text that
    results are reported on. ``merge`` is the rule that the converted model will use, and ``refinement`` what will be
    fitted after it. Texts are functions, called only by a fitness that ``needs`` them. ``folder``: of this fitness
    alone, where it may keep what took it long, for a process that goes on with the same run; it is removed when the run
    is done. None where nothing is to be kept. ``separate_kv``: keys and values are grouped apart, and candidates have
    two partitions for every layer (``SeparateGrouping.from_sides``); only a fitness that ``takes_sides`` is given that.
    ``kv``: how the converted model's cache will be rounded, None for not: a fitness that runs candidates does so with a
    cache in that format.
    """

    parent: Parent
    merge: Merge
    load_statistics: Callable[[], Statistics]
    load_search_blocks: Callable[[], TokenBlocks]
    load_calibration_blocks: Callable[[], TokenBlocks]
    refinement: Refinement = field(default_factory=NoRefinement)
    folder: Path | None = None
    separate_kv: bool = False
    kv: KVFormat | None = None

    def place(self, partition: int) -> tuple[int, Side | None]:
        """The layer that partition number ``partition`` of a candidate is of, and its side; None for both."""
        if not self.separate_kv:
            return partition, None
        return partition // 2, SIDES[partition % 2]

    def grouping_of(self, candidate: Grouping) -> AnyGrouping:
        """What a candidate makes of the model."""
        return SeparateGrouping.from_sides(candidate) if self.separate_kv else candidate

    @property
    def refined(self) -> bool:
        """True when anything will be fitted after the merge."""
        return self.refinement.reads_text

    @property
    def num_layers(self) -> int:
        return self.parent.geometry.num_layers

    def layer(self, index: int) -> LayerWeights:
        return self.parent.layer(index)


class GivesContext(Protocol):
    """A model with its texts, as ``gqasearch.load`` gives it."""

    def context(self, merge: Merge | None = None, refine: Refinement | None = None) -> FitnessContext:
        """What a fitness prepares from, for models converted by this merge and refinement."""


@dataclass(frozen=True)
class Fitness(ABC):
    """A fitness function: parameters (the dataclass's fields) and how to bind them to a model.

    ``name``: how it is asked for; ``reference``: URL of the paper; ``needs``: "weights",
    "statistics" (a calibration pass) or "forward" (runs the model on the search text);
    ``summary``: one line for ``gqasearch ls fitness``; ``takes_sides``: whether it knows keys and values that are
    grouped apart (``FitnessContext.separate_kv``); ``objectives``: what models may predict that it takes: next tokens,
    masked tokens, or nothing but hidden states.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    needs: ClassVar[Need]
    summary: ClassVar[str]
    takes_sides: ClassVar[bool] = False
    objectives: ClassVar[tuple[Objective, ...]] = OBJECTIVES

    @abstractmethod
    def prepare(self, context: FitnessContext) -> PreparedFitness:
        """Bind to a model. Expensive work that all candidates share belongs here."""

    def evaluate(
        self,
        parent: GivesContext,
        groupings: Sequence[Grouping],
        *,
        merge: Merge | None = None,
        refine: Refinement | None = None,
    ) -> FloatArray:
        """One value per grouping of ``parent`` (``gqasearch.load``), (N,); lower is better."""
        return self.prepare(parent.context(merge, refine)).evaluate(groupings)

    def parameters(self) -> dict[str, Any]:
        """Field name -> value, as written to grouping.json."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def to_numpy(tensor: torch.Tensor) -> FloatArray:
    """A tensor as float64 on the CPU."""
    return tensor.detach().to("cpu", torch.float64).numpy()


FITNESS: Registry[Fitness] = Registry("fitness", ENTRY_POINT_GROUP, Fitness, ("name", "reference", "needs", "summary"))


def available_fitness() -> dict[str, type[Fitness]]:
    """Name -> class of every installed fitness function that can be used."""
    return FITNESS.available()


def broken_fitness() -> dict[str, str]:
    """Name -> package, entry point and reason of every installed fitness function that cannot be used."""
    return FITNESS.broken()


def make_fitness(name: str, parameters: dict[str, Any] | None = None) -> Fitness:
    """The fitness of this name; an unknown name or parameter is a ``UserError`` with the nearest valid one."""
    return FITNESS.make(name, parameters)

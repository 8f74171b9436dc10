"""What the steps of a run share: the parent, the texts, the statistics; each loaded when first needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gqasearch.budget import Budget
from gqasearch.calibration import (
    Statistics,
    TokenBlocks,
    load_or_collect,
)
from gqasearch.checkpoints import joined_source
from gqasearch.config import KV_BYTES, KV_RATIO, RunConfig
from gqasearch.embedded import Split
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter
from gqasearch.fitness import Fitness, FitnessContext, PreparedFitness, make_fitness
from gqasearch.merging import Merge, make_merge
from gqasearch.models import ModelSource, Parent, check_device, load_parent, resolve_model
from gqasearch.models.in_memory import InMemory
from gqasearch.models.loading import load_tokenizer
from gqasearch.refining import Refinement, make_refinement
from gqasearch.rounding import KVFormat, parse_format
from gqasearch.searching import SearchMethod, check_first_objective, make_method, may_take_several
from gqasearch.sections import (
    FormatSettings,
    JoinSettings,
    MachineSettings,
    MergeSettings,
    ModelSettings,
    ReportedTextSettings,
    SearchTextSettings,
    SideSettings,
    StatisticsTextSettings,
)
from gqasearch.steps.cut_texts import cut_text
from gqasearch.steps.objects import Objects, with_refinement
from gqasearch.steps.process_cache import ProcessCache
from gqasearch.steps.progress import NoProgress, Progress

# What the files of a model, the model itself, the texts, the statistics, and a prepared fitness each depend on.
SOURCE = (ModelSettings, JoinSettings)
MODEL = (*SOURCE, MachineSettings)
TEXT = (*SOURCE, StatisticsTextSettings, SearchTextSettings, ReportedTextSettings)
STATISTICS = (*MODEL, StatisticsTextSettings)
FITNESS = (*STATISTICS, SearchTextSettings, SideSettings, MergeSettings)


@dataclass(frozen=True)
class OtherModel:
    """A model in place of the one that a configuration names: one in memory, or one made for a conversion.

    ``load``: gives it; None to load the files of ``source``. ``statistics``: gives its statistics; None to gather them.
    ``made_from``: the workspace of the one that it was made from, which results are compared with.
    """

    source: ModelSource
    load: Callable[[], Parent] | None = None
    statistics: Callable[[], Statistics] | None = None
    made_from: Workspace | None = None

    @classmethod
    def in_memory(cls, parent: Parent) -> OtherModel:
        """A model that is in no folder."""
        return cls(InMemory.of(parent), lambda: parent)


class Workspace:
    """Loads what ``config`` names, once. Its own ``config`` names the refinement, also where the merge decides it.

    ``cache``: what it shares with other workspaces of the process. ``asked``: what was asked for, where ``config`` has
    decided what that leaves open (``settled``). ``candidates``: where fitness functions keep what they would lose if
    the process were killed; of one run, so nothing that is shared with others is kept there. ``objects``: objects in
    place of those that names of ``config`` stand for. ``model``: in place of the one that it names.
    """

    def __init__(
        self,
        config: RunConfig,
        progress: Progress | None = None,
        cache: ProcessCache | None = None,
        candidates: Path | None = None,
        objects: Objects | None = None,
        model: OtherModel | None = None,
    ) -> None:
        self.config = with_refinement(config)
        self.progress: Progress = progress or NoProgress()
        self.asked = self.config
        self.candidates = candidates if cache is None else None
        self._cache = cache or ProcessCache()
        self._objects = objects or Objects()
        self._model = model

    def _like(self, config: RunConfig, model: OtherModel | None) -> Workspace:
        return Workspace(config, self.progress, self._cache, objects=self._objects, model=model)

    def of_model(self, model: OtherModel) -> Workspace:
        """The same settings and texts, for another model."""
        return self._like(self.config, model)

    def settled(self, changes: Mapping[str, Any]) -> Workspace:
        """The same with other settings, in which what this one leaves open is decided; ``asked`` stays."""
        other = self._like(self.config.model_copy(update=dict(changes)), self._model)
        other.candidates, other.asked = self.candidates, self.asked
        return other

    @cached_property
    def unjoined(self) -> Workspace:
        """That of the model as it was given, without ``join`` or copies of heads, which results are compared with."""
        if self._model is not None and self._model.made_from is not None:
            return self._model.made_from
        return self if self.config.join == 1 else self._like(self.config.model_copy(update={"join": 1}), None)

    @cached_property
    def source(self) -> ModelSource:
        """The files that the parent is loaded from; with ``join`` the same model with wider heads, in the cache."""
        config = self.config
        if self._model is not None:
            if config.join > 1:
                raise UserError(f"join {config.join}: wider heads are made from a checkpoint's files; load a folder")
            return self._model.source

        def find() -> ModelSource:
            return joined_source(resolve_model(config.model, config.revision), config.join)

        return self._cache.get("source", ProcessCache.SMALL, config.key(*SOURCE), find)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._model is not None and self._model.load is not None:
            if self.parent.tokenizer is None:
                raise UserError("a model in memory needs its tokenizer, which reads the text: give it, too")
            return self.parent.tokenizer
        return self._cache.get(
            *("tokenizer", ProcessCache.SMALL, self.config.key(*SOURCE)), lambda: load_tokenizer(self.source.directory)
        )

    @cached_property
    def parent(self) -> Parent:
        if self._model is not None:
            return (self._model.load or self._load_parent)()
        return self._cache.get("parent", ProcessCache.LARGE, self.config.key(*MODEL), self._load_parent)

    def _load_parent(self) -> Parent:
        config = self.config
        check_device(config.device)
        self.progress.stage("model")
        dtype: torch.dtype = getattr(torch, config.dtype)
        if config.join == 1 and self._model is None:
            return load_parent(config.model, revision=config.revision, dtype=dtype, device=config.device)
        loaded = load_parent(str(self.source.directory), dtype=dtype, device=config.device)
        return replace(loaded, id=config.model, revision=self.unjoined.source.revision)

    @cached_property
    def merge(self) -> Merge:
        return self._objects.merge or make_merge(self.config.merge, self.config.merge_parameters)

    @cached_property
    def refinement(self) -> Refinement:
        chosen = self._objects.refinement
        return chosen or make_refinement(self.config.refine or "none", self.config.refine_parameters)

    @cached_property
    def method(self) -> SearchMethod:
        """The search method; refuses objectives that it can never take."""
        method = self._objects.method or make_method(self.config.method, self.config.method_parameters)
        if len(self.config.objectives) > 1 and not may_take_several(method):
            raise UserError(
                f"method {method.name} takes one objective, got {', '.join(self.config.objectives)}; "
                "use --method evolution"
            )
        first = self.config.fitness
        check_first_objective(method, first, runs_model=self.fitnesses[first].needs == "forward")
        return method

    @cached_property
    def budget(self) -> Budget:
        """The KV budget in this model's heads, as the method takes it."""
        return self.config.budget(self.source.geometry, splits_budget=self.method.splits_budget)

    @cached_property
    def fitnesses(self) -> dict[str, Fitness]:
        """Objective name -> fitness, without the sizes of the cache."""
        names = [name for name in self.config.objectives if name not in (KV_RATIO, KV_BYTES)]
        given = self._objects.fitnesses
        return {name: given.get(name) or make_fitness(name, self.config.fitness_parameters) for name in names}

    @property
    def kv(self) -> KVFormat | None:
        """How the cache will be rounded; None for not."""
        return None if self.config.kv_bits is None else parse_format(self.config.kv_bits)

    @cached_property
    def statistics(self) -> Statistics:
        if self._model is not None and self._model.statistics is not None:
            return self._model.statistics()
        return self._cache.get("statistics", ProcessCache.SMALL, self.config.key(*STATISTICS), self._load_statistics)

    def _load_statistics(self) -> Statistics:
        blocks = self.blocks("calibration")
        self.progress.stage("calibration", total=self.source.geometry.num_layers)
        found = load_or_collect(
            self.parent,
            blocks,
            batch_blocks=self.config.batch_blocks,
            progress=lambda done, _: self.progress.update(done),
        )
        self.progress.update(self.source.geometry.num_layers)  # also when the cache had them
        return found

    @cached_property
    def converter(self) -> Converter:
        return Converter(self.parent, self.merge, lambda: self.statistics)

    def blocks(self, split: Split) -> TokenBlocks:
        """Token blocks of one of the three texts; they never overlap."""
        key = self.config.key(*TEXT), split
        return self._cache.get(
            *("text", ProcessCache.SMALL, key), lambda: cut_text(self.config, self.source, self.tokenizer, split)
        )

    def needs(self) -> set[str]:
        """What the fitness functions, the merge and the method of this run need."""
        named = {fitness.needs for fitness in self.fitnesses.values()} | {self.merge.needs}
        return named | ({"statistics"} if self.method.needs & {"similarity", "guide"} else set())

    def context(self, name: str | None = None) -> FitnessContext:
        """What the fitness function of this name prepares from; without a name one that keeps nothing."""
        return FitnessContext(
            parent=self.parent,
            merge=self.merge,
            load_statistics=lambda: self.statistics,
            load_search_blocks=lambda: self.blocks("search"),
            load_calibration_blocks=lambda: self.blocks("calibration"),
            refinement=self.refinement,
            folder=self.candidates / name if self.candidates and name else None,
            separate_kv=self.config.separate_kv,
            kv=self.kv,
        )

    def prepared(self, fitness: Fitness) -> PreparedFitness:
        """``fitness`` bound to this model and its texts; one that other workspaces used knows what they measured."""
        runs = fitness.needs == "forward"
        return self._cache.get(
            *((ProcessCache.RUNNING, ProcessCache.LARGE) if runs else (ProcessCache.TABLES, ProcessCache.SMALL)),
            (
                self.config.key(*FITNESS, *([FormatSettings] if runs else [])),
                fitness.name,
                json.dumps(fitness.parameters(), sort_keys=True, default=str),
            ),
            lambda: fitness.prepare(self.context(fitness.name)),
        )

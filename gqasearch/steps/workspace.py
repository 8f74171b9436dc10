"""What the steps of a run share: the parent, the texts, the statistics; each loaded when first needed."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gqasearch.budget import Budget
from gqasearch.calibration import (
    FilePart,
    Statistics,
    TokenBlocks,
    load_or_collect,
    make_blocks,
    shortage,
    stream_documents,
    stream_whole,
)
from gqasearch.checkpoints import joined_source
from gqasearch.config import KV_BYTES, KV_RATIO, RunConfig
from gqasearch.embedded import Document, Split
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
from gqasearch.steps import cache_keys
from gqasearch.steps.choices import Choices, with_refinement
from gqasearch.steps.kept import Kept
from gqasearch.steps.objective import masked_share
from gqasearch.steps.told import NoProgress, Progress

log = logging.getLogger(__name__)


class Workspace:
    """Loads what ``config`` names, once. Its own ``config`` names the refinement, also where the merge decides it.

    ``kept``: what it shares with other workspaces of the process. ``asked``: what was asked for, where ``config`` has
    decided what that leaves open (``settled``). ``candidates``: where fitness functions keep what they would lose if
    the process were killed; of one run, so nothing that is shared with others is kept there. ``choices``: objects in
    place of those that names of ``config`` stand for. ``loaded``: the parent, where it is in memory and in no folder.
    """

    def __init__(
        self,
        config: RunConfig,
        progress: Progress | None = None,
        kept: Kept | None = None,
        candidates: Path | None = None,
        choices: Choices | None = None,
        loaded: Parent | None = None,
    ) -> None:
        self.config = with_refinement(config)
        self.progress: Progress = progress or NoProgress()
        self.asked = self.config
        self._candidates = candidates if kept is None else None
        self._kept = kept or Kept()
        self._choices = choices or Choices()
        self._loaded = loaded

    @cached_property
    def source(self) -> ModelSource:
        """The files that the parent is loaded from; with ``join`` the same model with wider heads, in the cache."""
        config = self.config
        if self._loaded is not None:
            if config.join > 1:
                raise UserError(f"join {config.join}: wider heads are made from a checkpoint's files; load a folder")
            return InMemory.of(self._loaded)

        def find() -> ModelSource:
            return joined_source(resolve_model(config.model, config.revision), config.join)

        return self._kept.get("source", Kept.SMALL, self._key(cache_keys.SOURCE), find)

    @cached_property
    def unjoined(self) -> Workspace:
        """The same without ``join``: the model as it was given, which results are compared with."""
        if self.config.join == 1:
            return self
        config = self.config.model_copy(update={"join": 1})
        return Workspace(config, self.progress, self._kept, choices=self._choices)

    def settled(self, changes: Mapping[str, Any]) -> Workspace:
        """The same with other settings, in which what this one leaves open is decided; ``asked`` stays."""
        other = Workspace(
            self.config.model_copy(update=dict(changes)),
            self.progress,
            self._kept,
            choices=self._choices,
            loaded=self._loaded,
        )
        other._candidates, other.asked = self._candidates, self.asked
        return other

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if self._loaded is not None:
            if self._loaded.tokenizer is None:
                raise UserError("a model in memory needs its tokenizer, which reads the text: give it, too")
            return self._loaded.tokenizer
        return self._kept.get(
            *("tokenizer", Kept.SMALL, self._key(cache_keys.SOURCE)), lambda: load_tokenizer(self.source.directory)
        )

    @cached_property
    def parent(self) -> Parent:
        if self._loaded is not None:
            return self._loaded
        return self._kept.get("parent", Kept.LARGE, self._key(cache_keys.MODEL), self._load_parent)

    def _load_parent(self) -> Parent:
        config = self.config
        check_device(config.device)
        self.progress.stage("model")
        dtype: torch.dtype = getattr(torch, config.dtype)
        if config.join == 1:
            return load_parent(config.model, revision=config.revision, dtype=dtype, device=config.device)
        loaded = load_parent(str(self.source.directory), dtype=dtype, device=config.device)
        return replace(loaded, id=config.model, revision=self.source.revision)

    @cached_property
    def merge(self) -> Merge:
        return self._choices.merge or make_merge(self.config.merge, self.config.merge_parameters)

    @cached_property
    def refinement(self) -> Refinement:
        chosen = self._choices.refinement
        return chosen or make_refinement(self.config.refine or "none", self.config.refine_parameters)

    @cached_property
    def method(self) -> SearchMethod:
        """The search method; refuses objectives that it can never take."""
        method = self._choices.method or make_method(self.config.method, self.config.method_parameters)
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
        given = self._choices.fitnesses
        return {name: given.get(name) or make_fitness(name, self.config.fitness_parameters) for name in names}

    @property
    def kv(self) -> KVFormat | None:
        """How the cache will be rounded; None for not."""
        return None if self.config.kv_bits is None else parse_format(self.config.kv_bits)

    @cached_property
    def statistics(self) -> Statistics:
        return self._kept.get("statistics", Kept.SMALL, self._key(cache_keys.STATISTICS), self._load_statistics)

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
        return self._kept.get("text", Kept.SMALL, (self._key(cache_keys.TEXT), split), lambda: self._make_blocks(split))

    def _make_blocks(self, split: Split) -> TokenBlocks:
        if split == "evaluation" and self.config.evaluation_part == "validation":
            return self._validation()
        blocks = self._cut(split, self.wanted_tokens(split))
        if (words := shortage(blocks, self.wanted_tokens(split))) is not None:
            log.warning("warning: %s", words)
        return blocks

    def wanted_tokens(self, split: Split) -> int:
        """How many tokens of a text were asked for."""
        config = self.config
        wanted: dict[Split, int] = {
            "calibration": config.calibration_tokens,
            "search": config.search_tokens,
            "evaluation": config.evaluation_tokens,
        }
        return wanted[split]

    def _cut(self, split: Split, tokens: int) -> TokenBlocks:
        """The first ``tokens`` of one text."""
        documents, words = self._documents(split)
        named = list(islice(documents, 20))
        source = f"{words}: {', '.join(document.name for document in named)}"
        family, config = self.source.family, self.source.config
        return make_blocks(
            *(chain(named, documents), self.tokenizer, self.config.block_length, tokens, source, family.objective),
            vocabulary=family.vocabulary(config),
            short_length=family.short_length(config),
            masked_blocks=masked_share(family.objective, split, self.config.masked_blocks),
        )

    def _validation(self) -> TokenBlocks:
        """The last blocks of the search text, which no search sees: it takes the first ones."""
        whole = self._cut("search", sys.maxsize)
        searched, found = whole.first(self.config.search_tokens), whole.last(self.config.evaluation_tokens)
        if len(searched.ids) + len(found.ids) > len(whole.ids):
            raise UserError(
                f"the search part of {self.config.calibration_text} has {whole.tokens} tokens, too few for "
                f"{self.config.search_tokens} to search on and {self.config.evaluation_tokens} for validation"
            )
        return replace(found, source=f"the end, for validation, of {whole.source}")

    def _documents(self, split: Split) -> tuple[Iterator[Document | FilePart], str]:
        """The documents of one purpose, and the text they are of in words."""
        text, other = self.config.calibration_text, self.config.evaluation_text
        if split == "evaluation" and other is not None:
            return iter(stream_whole(other)), f"{other}, whole"
        return iter(stream_documents(text, split)), f"{text}, {split} part"

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
            folder=self._candidates / name if self._candidates and name else None,
            separate_kv=self.config.separate_kv,
            kv=self.kv,
        )

    def prepared(self, fitness: Fitness) -> PreparedFitness:
        """``fitness`` bound to this model and its texts; one that other workspaces used knows what they measured."""
        runs = fitness.needs == "forward"
        return self._kept.get(
            *((Kept.RUNNING, Kept.LARGE) if runs else (Kept.TABLES, Kept.SMALL)),
            (
                self._key((*cache_keys.FITNESS, *(["kv_bits"] if runs else []))),
                fitness.name,
                json.dumps(fitness.parameters(), sort_keys=True, default=str),
            ),
            lambda: fitness.prepare(self.context(fitness.name)),
        )

    def _key(self, settings: tuple[str, ...]) -> str:
        """The values of these settings."""
        return json.dumps(self.config.model_dump(mode="json", include=set(settings)), sort_keys=True)

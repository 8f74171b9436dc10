"""What a run will come to, before its work: heads, forms of the checkpoint, text; and what can never come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gqasearch.budget import Budget
from gqasearch.checkpoints import Layout, plan_checkpoint
from gqasearch.checkpoints.deci import deci_obstacle
from gqasearch.embedded import Split
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import HeadGeometry
from gqasearch.searching import Problem, most_generations
from gqasearch.steps.cut_texts import wanted_tokens
from gqasearch.steps.texts import scarce_words, used_texts
from gqasearch.steps.unmeasured_problem import unmeasured_problem
from gqasearch.steps.warnings import NOTHING_MERGED, ratio_words
from gqasearch.steps.workspace import Workspace

ONE_SIZE, SIZES, COUNTS = "groups are of one size", "group sizes differ", "layers differ in their number of groups"


FEW_HEADS = 3  # from which on gains end for a model that is GQA already


@dataclass(frozen=True)
class Expected:
    """What becomes of groupings of one kind: their ``layout``, or why they have none."""

    when: str
    layout: Layout | None
    reason: str


@dataclass(frozen=True)
class Outlook:
    """Of the run that ``work`` describes. Reads configuration, tokenizer and text; loads no weights."""

    work: Workspace

    def check(self) -> None:
        """Raise ``UserError`` where no grouping within the budget has the form of checkpoint that is asked for."""
        if self.work.config.materialize and all(kind.layout is None for kind in self.layouts):
            raise UserError(f"{self.layouts[0].reason}. To search without a checkpoint give --no-materialize")

    @cached_property
    def layouts(self) -> tuple[Expected, ...]:
        """By kind of grouping that the search may end with, tried on one of each."""
        return tuple(self._expected(when, grouping) for when, grouping in kinds(self.work.budget, self._free).items())

    @cached_property
    def problem(self) -> Problem | None:
        """What is searched, nothing of it measured; None where the fitness does not say of which kind it is."""
        return unmeasured_problem(self.work)

    @property
    def _free(self) -> bool:
        return self.work.config.has_free_counts

    def _expected(self, when: str, grouping: Grouping) -> Expected:
        source, config = self.work.source, self.work.config
        try:
            made = self.work.config.grouping_of(grouping)
            planned = plan_checkpoint(source.family, source.config, made, config.layout, config.target)
        except UserError as error:
            return Expected(when, None, str(error).rstrip("."))
        return Expected(when, planned, planned.reason)

    def heads_words(self) -> str:
        """The budget in heads."""
        budget, layers = self.work.budget, len(self.work.budget.counts)
        share = f"{budget.total} of {layers * budget.num_heads} KV heads"
        if self._free:
            return f"any number; of the front, the best with at most {share}"
        if budget.movable:
            return f"{share}, shared out among {layers} layers"
        if self.work.config.separate_kv:
            each = f"{budget.counts[0]} of {budget.num_heads}"
            return f"{each} key heads and, apart from them, {each} value heads in every layer"
        return f"{budget.counts[0]} of {budget.num_heads} KV heads in every layer, {share}"

    def layout_words(self) -> str:
        """The forms that the checkpoint may have, and what each is for."""
        if not self.work.config.materialize:
            return "none: no checkpoint is asked for"
        if len({kind.layout and kind.layout.name for kind in self.layouts}) == 1:
            return f"{self._name(self.layouts[0])}: {self.layouts[0].reason}"
        return "; ".join(f"{self._name(kind)} where {kind.when}" for kind in self.layouts)

    def _name(self, kind: Expected) -> str:
        if kind.layout is None:
            return "no checkpoint"
        config = self.work.config
        by_padding = kind.when == COUNTS and config.layout == "auto" and config.target in (None, "transformers")
        return "deci or ragged" if by_padding and deci_obstacle(self.work.source.config) is None else kind.layout.name

    def text_words(self) -> dict[Split, str]:
        """Tokens of every text that is read: wanted, and found."""
        work, ending = self.work, f"wanted, in blocks of {self.work.config.block_length}"
        return {
            split: f"{work.blocks(split).tokens:,} tokens of {wanted_tokens(work.config, split):,} {ending}"
            for split in used_texts(work)
        }

    def work_words(self) -> str:
        """What the run makes the model read, and how long the search may take."""
        work, config = self.work, self.work.config
        parts = []
        if "statistics" in work.needs():
            parts.append(f"statistics of {len(work.blocks('calibration').ids)} blocks")
        if "search" in used_texts(work):
            parts.append(f"a search that runs the model on up to {work.blocks('search').tokens:,} tokens a candidate")
        most = None if self.problem is None else most_generations(work.method, self.problem)
        if most is not None:
            parts.append(f"at most {most:,} generations")
        if config.max_evaluations is not None:
            parts.append(f"about {config.max_evaluations:,} evaluations")
        if config.max_seconds is not None:
            parts.append(f"about {config.max_seconds:g} seconds of search")
        if work.refinement.reads_text:
            likeliest = next(iter(kinds(work.budget, self._free).values()))
            steps = work.refinement.total_steps(config.grouping_of(likeliest))
            parts.append(f"{work.refinement.name} of about {steps:,} steps")
        models = 3 if config.baseline else 2
        return ", ".join([*parts, f"{models} models measured on {len(work.blocks('evaluation').ids)} blocks"])

    def notes(self) -> list[str]:
        """What differs from what was asked for, one sentence each, but for texts (``shortages``)."""
        scarce = scarce_words(self.work)
        return [*self._heads_notes(), *self._layout_notes(), *([] if scarce is None else [scarce])]

    def _heads_notes(self) -> Iterator[str]:
        budget, geometry = self.work.budget, self.work.source.geometry
        if (words := ratio_words(self.work.config, budget, geometry)) is not None:
            yield words
        if budget.is_identity and not self._free:
            yield NOTHING_MERGED
        elif (words := few_heads(geometry)) is not None:
            yield words

    def _layout_notes(self) -> Iterator[str]:
        if not self.work.config.materialize:
            return
        for kind in self.layouts:
            if kind.layout is None:
                yield f"there will be no checkpoint where {kind.when}: {kind.reason}"
        if {"ragged", "deci"} & {kind.layout.name for kind in self.layouts if kind.layout is not None}:
            yield f"checkpoint: {self.layout_words()}"


def few_heads(geometry: HeadGeometry) -> str | None:
    """What to expect of a model whose query heads share few KV heads already; None of one that has more."""
    heads, queries = geometry.num_kv_heads, geometry.num_attention_heads
    if heads > FEW_HEADS or heads == queries:
        return None
    return (
        f"the model's {queries} query heads share {heads} KV heads already: little is left to save, and every merge is "
        f"of heads that {queries // heads} queries read each"
    )


def kinds(budget: Budget, free_counts: bool = False) -> dict[str, Grouping]:
    """One grouping of every kind that a search within ``budget`` may end with, the likeliest first.

    ``free_counts``: as in ``Problem``, the numbers of groups are free.
    """
    counts = budget.counts
    if len(set(counts)) > 1:
        return {COUNTS: _balanced(budget, counts)}
    found = {}
    if free_counts or budget.movable:
        moved = _moved(budget, fixed_sum=not free_counts)
        found = {COUNTS: _balanced(budget, moved)} if moved is not None else {}
    largest = min(budget.largest, budget.num_heads - counts[0] + 1)
    if counts[0] * largest > budget.num_heads:
        found[SIZES] = Grouping((_lopsided(budget.num_heads, counts[0], largest),) * len(counts))
    if budget.num_heads % counts[0] == 0:
        found[ONE_SIZE] = _balanced(budget, counts)
    return found


def _balanced(budget: Budget, counts: tuple[int, ...]) -> Grouping:
    return Grouping(tuple(LayerGrouping.neighbours(budget.num_heads, count) for count in counts))


def _lopsided(heads: int, count: int, largest: int) -> LayerGrouping:
    """One group of ``largest`` heads, the others as even as they go."""
    rest = heads - largest
    return LayerGrouping.from_labels([0] * largest + [1 + head * (count - 1) // rest for head in range(rest)])


def _moved(budget: Budget, *, fixed_sum: bool) -> tuple[int, ...] | None:
    """Counts of which the first has one step less, and the last one more if the sum is fixed; None if they cannot."""
    counts = list(budget.counts)
    first, last = counts[0], counts[-1]
    if len(counts) < 2 or first <= budget.count_step:
        return None
    if fixed_sum and last + budget.count_step > (budget.most_groups or budget.num_heads):
        return None
    moved = [first - budget.count_step, *counts[1:-1], last + budget.count_step * fixed_sum]
    return tuple(moved) if min(moved) * budget.largest >= budget.num_heads else None

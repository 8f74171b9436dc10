"""What a search found: the grouping, and from it figures, a model, a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transformers import PreTrainedModel

from gqasearch.api.parent_with_text import ParentWithText
from gqasearch.api.python_words import python_words
from gqasearch.api.scratch import scratch_folder
from gqasearch.api.tied_parent import as_converted
from gqasearch.config import RunConfig
from gqasearch.errors import UserError
from gqasearch.grouping_document import GroupingDocument
from gqasearch.models import model_record
from gqasearch.reporting.data import layer_pictures
from gqasearch.searching import Candidate, Generation
from gqasearch.separate_grouping import AnyGrouping
from gqasearch.steps import Workspace, materialize
from gqasearch.steps.convert import copies_beside, document_converter, refine_step
from gqasearch.steps.filled_slots import convertible, layout_of
from gqasearch.steps.measure import BASELINE, CONVERTED, baseline_subject, grouping_subject
from gqasearch.steps.measured_card import write_card
from gqasearch.steps.metric_records import distance_of
from gqasearch.steps.objects import Objects
from gqasearch.steps.rounded_caches import measure_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of the text for validation, which the search does not see; fewer where the text is short.
VALIDATION_TOKENS = 16384
Part = Literal["validation", "held-out"]


@dataclass(frozen=True, repr=False)
class SearchResult:
    """``front``: the candidates that no other beats in every objective, with their values; ``history``: every
    generation. ``document``: the best grouping with all that is known of it, as ``grouping.json`` has it. ``notes``: a
    sentence on everything that differs from what was asked for, as a KV ratio that is no whole number of heads.
    ``decision``: what a budget in bytes (``kv_bytes``) became and what it was compared with, as a run's
    ``format.json`` has it; None without such a budget.

    The refinement is fitted once, when a figure, the model or a checkpoint is first asked for.
    """

    parent: ParentWithText
    config: RunConfig
    objects: Objects
    document: GroupingDocument
    front: tuple[Candidate, ...]
    history: tuple[Generation, ...]
    notes: tuple[str, ...] = ()
    decision: Mapping[str, Any] | None = None
    _held_out: dict[str, Any] = field(default_factory=dict, init=False, compare=False)

    def __repr__(self) -> str:
        kept = f"{self.grouping.kv_heads_total} KV heads, {self.document.kv_ratio:.4g} of {self.document.model.id}'s"
        found = f"{kept}; {self.config.fitness} {self.value:.5g}"
        return "\n".join([f"<SearchResult: {found}>", *(f"note: {note}" for note in self.notes)])

    @property
    def grouping(self) -> AnyGrouping:
        """The partition of every layer's heads that was found best."""
        return self.document.partitions

    @property
    def value(self) -> float:
        """Its first objective; lower is better."""
        return 0.0 if self.document.fitness is None else self.document.fitness.value

    @property
    def kl(self) -> float:
        """KL divergence to the parent of the converted model, in nats per token, on validation text.

        That is the end of the search part, which no search sees: settings may be chosen by it. Results are reported
        on the held-out text: ``measure()``. Raises ``UserError`` for a model without a head; it has ``hidden_error``.
        """
        return self._figure("kl")

    @property
    def perplexity(self) -> float:
        """Perplexity of the converted model on the same text; raises as ``kl`` does."""
        return self._figure("perplexity")

    @property
    def hidden_error(self) -> float:
        """Of a model without a head, on the same text: the error of its hidden states; others have ``kl``."""
        return self._figure("hidden_error")

    def _figure(self, name: str) -> float:
        record = self._validated["results"][CONVERTED]
        if name not in record:
            raise UserError(f"this model has no {name}; it has {distance_of(record)}")
        return float(record[name])

    @cached_property
    def _validated(self) -> dict[str, Any]:
        return self.measure("validation", baseline=False)

    @python_words()
    def measure(self, part: Part = "held-out", *, baseline: bool = True) -> dict[str, Any]:
        """Perplexity, KL, KV bytes and parameters of the parent, of this result and, with ``baseline``, of neighbour
        grouping with the mean merge; as a run's ``metrics.json`` has them.

        ``part``: of the text. Choose settings by "validation" and report on "held-out", once.
        """
        work = self._workspace({"evaluation_part": part})
        if part == "validation":
            work = self._workspace({"evaluation_part": part, "evaluation_tokens": self._validation_tokens(work)})
        with convertible(work, self.document, copies_beside(self._refined_in)) as made:
            converter = document_converter(made.work, made.document)
            refined = refine_step(made.work, converter, made.document, self._refined_in)
            subjects = {CONVERTED: grouping_subject(made.work, converter, made.document.partitions, refined)}
            if baseline:
                subjects[BASELINE] = baseline_subject(work)
            found = measure_run(work, subjects)
        if part == "held-out":
            self._held_out.update(found)
        return found

    def figure(self) -> Figure:
        """Who shares: a row per layer, heads of one colour share a KV head."""
        from gqasearch.reporting.plots import grouping_figure

        title = f"{self.document.model.id}, KV ratio {self.document.kv_ratio:.3g}"
        return grouping_figure(layer_pictures(self.document), title)

    @contextmanager
    def converted(self) -> Iterator[PreTrainedModel]:
        """As ``gqasearch.converted`` with this grouping, its merge and refinement."""
        with python_words(), as_converted(self._workspace({}), self.document, self._refined_in) as model:
            yield model

    @python_words()
    def save(self, directory: str | Path, *, layout: str = "auto", target: str | None = None) -> Path:
        """Write the converted checkpoint to ``directory``, which appears only when it was loaded back and compared. Its
        model card has the figures of ``measure()``, if that was asked for before.

        ``layout``, ``target``: as ``gqasearch materialize`` takes them. Raises ``UserError`` where ``directory``
        exists, or the grouping has no checkpoint of that form.
        """
        out = Path(directory)
        with self.parent.in_folder() as parent:
            work = parent.workspace({**_searched(self.config), "layout": layout, "target": target}, self.objects)
            document = self.document
            if parent is not self.parent:  # the same weights, by the names that files have them under
                document = replace(document, model=model_record(document.model.id, work.source))
            materialize(work, document, out, refined_in=self._refined_in if parent is self.parent else None)
            if self._held_out:
                decided = {} if self.decision is None else {"decision": self.decision}
                write_card(work, out, document, layout_of(work, document), {**self._held_out, **decided})
        return out

    @cached_property
    def _refined_in(self) -> Path:
        return scratch_folder(self, "gqasearch-refined-")

    def _workspace(self, settings: dict[str, Any]) -> Workspace:
        return self.parent.workspace({**_searched(self.config), **settings}, self.objects)

    @staticmethod
    def _validation_tokens(work: Workspace) -> int:
        return min(VALIDATION_TOKENS, work.config.evaluation_tokens)


def _searched(config: RunConfig) -> dict[str, Any]:
    """The settings of the search, without those of the model and its texts."""
    given = config.model_dump(exclude={"model", "device", "dtype"}, exclude_unset=True)
    return {**given, "materialize": True}

"""What the fitness functions that run the model share: candidates, their text, and the quick refit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeAlias

import numpy as np

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import (
    CandidateState,
    Converter,
    PrefixLosses,
    RoundedLayers,
    SummedLoss,
    TiedLayer,
    digest_of,
    mean_loss,
)
from gqasearch.fitness import FitnessContext, FloatArray
from gqasearch.grouping import Grouping
from gqasearch.models import LayerWeights, tie_heads
from gqasearch.refining import Descent, LayersAlone, LayerwiseRefinement, Outputs
from gqasearch.separate_grouping import AnyGrouping, AnyLayer

# (layer, its grouping) -> the converted layer, k and v (G, ...).
ConvertedLayer: TypeAlias = Callable[[int, AnyLayer], LayerWeights]
# (grouping, its refined layers) -> loss.
MeasureLayers: TypeAlias = Callable[[AnyGrouping, Mapping[int, LayerWeights]], float]

# Blocks of about so many tokens are run at once: the smallest share of its text that a candidate can be run on.
BATCH_TOKENS = 1024
ALL = -1  # in place of the number of a batch


def check_tokens(tokens: int, refit_tokens: int) -> None:
    """Refuse sizes of texts that mean nothing."""
    if tokens < 2:
        raise ValueError(f"tokens must be at least 2, got {tokens}")
    if refit_tokens < 0:
        raise ValueError(f"refit_tokens must be at least 0, got {refit_tokens}")


def batch_size(blocks: TokenBlocks) -> int:
    """Blocks per batch."""
    return max(1, BATCH_TOKENS // blocks.ids.shape[1])


class QuickRefinement(Protocol):
    """How candidates are refined before they are run; see ``KLToParent``."""

    @property
    def tokens(self) -> int: ...
    @property
    def refit_tokens(self) -> int: ...
    @property
    def descent_tokens(self) -> int: ...
    @property
    def descent_steps(self) -> int: ...


def check_quick_refinement(parameters: QuickRefinement) -> None:
    """Refuse sizes of texts and numbers of steps that mean nothing."""
    check_tokens(parameters.tokens, parameters.refit_tokens)
    for name in ("descent_tokens", "descent_steps"):
        if getattr(parameters, name) < 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(parameters, name)}")


class CandidateLosses:
    """Losses of candidates under the context's merge, their layers quickly refined where the model will be.

    On a part of the text: with W_o refitted. On all of it: after a short descent, where a descent will follow. Whatever
    is kept of one is of no use to the other, whose layers are different. Where the model's cache will be rounded theirs
    is, and layers are fitted to that; the basis that is chosen for it last of all they lack. ``converted_layer``: a
    layer as it is on all of the text, k and v (G, ...); computed anew with every call.
    """

    def __init__(
        self, parameters: QuickRefinement, context: FitnessContext, blocks: TokenBlocks, summed_loss: SummedLoss
    ) -> None:
        def losses(name: str, converted: ConvertedLayer) -> PrefixLosses:
            tied_layer = in_parents_shape(context, converted)
            state = candidate_state(context, name)
            size, kv = batch_size(blocks), context.kv
            return PrefixLosses(context.parent, tied_layer, blocks, size, summed_loss, state=state, kv=kv)

        self.context, self.blocks, self.summed_loss = context, blocks, summed_loss
        self.converter = converter = Converter(context.parent, context.merge, context.load_statistics)
        outputs = Outputs.quick(context.refinement) if context.refined else None
        self.converted_layer = converted_layers(context, converter, outputs, parameters.refit_tokens)
        self.on_part = self.on_all = losses("quick", self.converted_layer)
        refinement = context.refinement
        if isinstance(refinement, Descent) and parameters.descent_tokens and parameters.descent_steps:
            short = replace(refinement, steps=min(refinement.steps, parameters.descent_steps))
            self.converted_layer = converted_layers(context, converter, short, parameters.descent_tokens)
            self.on_all = losses("short", self.converted_layer)
        self.batch_tokens = self.on_part.batch_tokens
        self._finals = candidate_state(context, "finals")

    @property
    def tokens_run(self) -> int:
        """Tokens that candidates were run on so far."""
        return self.on_part.tokens_run + (self.on_all.tokens_run if self.on_all is not self.on_part else 0)

    def __call__(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        """Mean loss of every grouping over these batches, (N,)."""
        whole = len(set(batches)) == len(self.batch_tokens)
        candidates = [self.context.grouping_of(grouping) for grouping in groupings]
        return (self.on_all if whole else self.on_part)(candidates, batches)

    def refined(self, groupings: Sequence[Grouping], measure: MeasureLayers | None = None) -> FloatArray:
        """Mean loss of every grouping over all of the text after the context's refinement, as a run does it, (N,).

        ``measure``: gives the loss of refined layers in another way than running them.
        """
        candidates = [self.context.grouping_of(grouping) for grouping in groupings]
        return np.array([self._final(one, measure or self._mean_loss) for one in candidates], dtype=np.float64)

    def _final(self, grouping: AnyGrouping, measure: MeasureLayers) -> float:
        """ProcessCache, as are the layers that are refined already: they cost a run's refinement each."""
        context, folder = self.context, None
        if context.folder is not None:
            folder = context.folder / f"refined-{digest_of(grouping)}"

        def refine_and_measure() -> float:
            blocks = context.load_calibration_blocks()
            refined = self.converter.refine(grouping, blocks, context.refinement, folder=folder)
            return measure(grouping, refined)

        loss = kept_loss(self._finals, grouping, refine_and_measure)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return loss

    def _mean_loss(self, grouping: AnyGrouping, layers: Mapping[int, LayerWeights]) -> float:
        layered, kv = self.converter.runner(grouping, layers), self.context.kv
        converted = layered if kv is None else RoundedLayers(layered, kv)
        return mean_loss(converted, self.blocks, batch_size(self.blocks), self.summed_loss)


def kept_loss(state: CandidateState | None, grouping: AnyGrouping, compute: Callable[[], float]) -> float:
    """The loss of a candidate over all of the text: what is known of it, else what is computed, which is then kept."""
    known = state.loss((ALL, grouping)) if state else None
    if known is None:
        known = compute()
        if state is not None:
            state.add([((ALL, grouping), known)])
    return known


def candidate_state(context: FitnessContext, name: str) -> CandidateState | None:
    """What an earlier process kept under this name; None where nothing is to be kept."""
    return None if context.folder is None else CandidateState(context.folder / name)


def converted_layers(
    context: FitnessContext, converter: Converter, refinement: LayerwiseRefinement | None, tokens: int
) -> ConvertedLayer:
    """Layers after the merge, each then refined by itself on so many tokens of the calibration text; 0 for not."""
    alone: LayersAlone | None = None
    if refinement is not None and tokens:
        text = context.load_calibration_blocks().first(tokens)
        alone = LayersAlone(context.parent, text, refinement, kv=context.kv)

    def converted_layer(index: int, layer: AnyLayer) -> LayerWeights:
        merged = converter.merged(index, layer)
        return merged if alone is None else alone.refine(index, layer, merged)

    return converted_layer


def tied_layers(
    context: FitnessContext, converter: Converter, refinement: LayerwiseRefinement | None, tokens: int
) -> TiedLayer:
    """``converted_layers`` in the parent's shape."""
    return in_parents_shape(context, converted_layers(context, converter, refinement, tokens))


def in_parents_shape(context: FitnessContext, converted: ConvertedLayer) -> TiedLayer:
    """These layers with K and V of a group repeated for its heads."""
    m = context.parent.geometry.queries_per_kv
    return lambda index, layer: tie_heads(converted(index, layer), layer, m)

"""What the fitness functions that run the model share: candidates, their text, and the quick refit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeAlias

import numpy as np

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import Converter, PrefixLosses, SummedLoss, TiedLayer, mean_loss
from gqasearch.fitness import FitnessContext, FloatArray
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights, tie_heads
from gqasearch.refining import Descent, LayersAlone, LayerwiseRefinement, Outputs

# (layer, its grouping) -> the converted layer, k and v (G, ...).
ConvertedLayer: TypeAlias = Callable[[int, LayerGrouping], LayerWeights]

# Blocks of about so many tokens are run at once: the smallest share of its text that a candidate can be run on.
BATCH_TOKENS = 1024


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

    On a part of the text: with W_o refitted. On all of it: after a short descent, where a descent will follow.
    Whatever is kept of one is of no use to the other, whose layers are different. ``converted_layer``: a layer as it
    is on all of the text, k and v (G, ...); computed anew with every call.
    """

    def __init__(
        self, parameters: QuickRefinement, context: FitnessContext, blocks: TokenBlocks, summed_loss: SummedLoss
    ) -> None:
        def losses(converted: ConvertedLayer) -> PrefixLosses:
            tied_layer = in_parents_shape(context, converted)
            return PrefixLosses(context.parent, tied_layer, blocks, batch_size(blocks), summed_loss)

        self.context, self.blocks, self.summed_loss = context, blocks, summed_loss
        self.converter = converter = Converter(context.parent, context.merge, context.load_statistics)
        outputs = Outputs() if context.refined else None
        self.converted_layer = converted_layers(context, converter, outputs, parameters.refit_tokens)
        self.on_part = self.on_all = losses(self.converted_layer)
        refinement = context.refinement
        if isinstance(refinement, Descent) and parameters.descent_tokens and parameters.descent_steps:
            short = replace(refinement, steps=min(refinement.steps, parameters.descent_steps))
            self.converted_layer = converted_layers(context, converter, short, parameters.descent_tokens)
            self.on_all = losses(self.converted_layer)
        self.batch_tokens = self.on_part.batch_tokens

    @property
    def tokens_run(self) -> int:
        """Tokens that candidates were run on so far."""
        return self.on_part.tokens_run + (self.on_all.tokens_run if self.on_all is not self.on_part else 0)

    def __call__(self, groupings: Sequence[Grouping], batches: Sequence[int]) -> FloatArray:
        """Mean loss of every grouping over these batches, (N,)."""
        whole = len(set(batches)) == len(self.batch_tokens)
        return (self.on_all if whole else self.on_part)(groupings, batches)

    def refined(self, groupings: Sequence[Grouping]) -> FloatArray:
        """Mean loss of every grouping over all of the text after the context's refinement, as a run does it, (N,)."""
        return np.array([self._refined(grouping) for grouping in groupings], dtype=np.float64)

    def _refined(self, grouping: Grouping) -> float:
        context = self.context
        layers = self.converter.refine(grouping, context.load_calibration_blocks(), context.refinement)
        converted = self.converter.runner(grouping, layers)
        return mean_loss(converted, self.blocks, batch_size(self.blocks), self.summed_loss)


def converted_layers(
    context: FitnessContext, converter: Converter, refinement: LayerwiseRefinement | None, tokens: int
) -> ConvertedLayer:
    """Layers after the merge, each then refined by itself on so many tokens of the calibration text; 0 for not."""
    alone: LayersAlone | None = None
    if refinement is not None and tokens:
        alone = LayersAlone(context.parent, context.load_calibration_blocks().first(tokens), refinement)

    def converted_layer(index: int, layer: LayerGrouping) -> LayerWeights:
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
    return lambda index, layer: tie_heads(converted(index, layer), layer.labels, m)

"""What the fitness functions that run the model share: candidates, their text, and the quick refit."""

from __future__ import annotations

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import Converter, LocalOutputs, PrefixLosses, SummedLoss
from gqasearch.fitness import FitnessContext
from gqasearch.grouping import LayerGrouping
from gqasearch.models import LayerWeights, tie_heads

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


def candidate_losses(
    context: FitnessContext, blocks: TokenBlocks, refit_tokens: int, summed_loss: SummedLoss
) -> PrefixLosses:
    """Losses of candidates under the context's merge.

    ``refit_tokens``: where the converted model is going to be refined, W_o of every candidate layer is refitted by
    itself on so many tokens of the calibration text; 0 for never.
    """
    parent = context.parent
    converter = Converter(parent, context.merge, context.load_statistics)
    refitter: LocalOutputs | None = None
    if refit_tokens and context.refined:
        refitter = LocalOutputs(parent, context.load_calibration_blocks().first(refit_tokens))

    def tied_layer(index: int, layer: LayerGrouping) -> LayerWeights:
        merged = converter.layer_merge(index).merge(layer)
        tied = tie_heads(merged, layer.labels, parent.geometry.queries_per_kv)
        return tied if refitter is None else refitter.refit(index, tied)

    return PrefixLosses(parent, tied_layer, blocks, batch_size(blocks), summed_loss)

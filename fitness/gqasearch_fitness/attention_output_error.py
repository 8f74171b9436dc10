"""The error of a layer's attention output, measured by running the real layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gqasearch.evaluation import AttentionCalls, Converter
from gqasearch.fitness import Fitness, FitnessContext, PreparedGroupFitness
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import Need
from gqasearch.refining import Outputs
from gqasearch.separate_grouping import SeparateLayer
from gqasearch_fitness._text import check_tokens, tied_layers


class PreparedAttentionOutputError(PreparedGroupFitness):
    """Runs one attention block per group, on the parent's own inputs."""

    def __init__(self, parameters: AttentionOutputError, context: FitnessContext) -> None:
        super().__init__()
        self.context = context
        self.converter = converter = Converter(context.parent, context.merge, context.load_statistics)
        outputs = Outputs.quick(context.refinement) if context.refined else None
        self.tied_layer = tied_layers(context, converter, outputs, parameters.refit_tokens)
        self.calls = AttentionCalls(context.parent, context.load_search_blocks().first(parameters.tokens))

    def compute_group_error(self, layer: int, heads: tuple[int, ...]) -> float:
        others = [(head,) for head in range(self.context.parent.geometry.num_kv_heads) if head not in heads]
        index, side = self.context.place(layer)
        grouping = LayerGrouping.from_groups([heads, *others])
        tied = self.tied_layer(index, grouping if side is None else SeparateLayer.of_side(side, grouping))
        error, tokens = 0.0, 0
        for batch in self.calls.run(index, tied):
            error += float((batch.output - batch.parent).double().square().sum())
            tokens += len(batch.output)
        return error / tokens / self.calls.residual_energy(index)

    def rest(self) -> None:
        self.converter.rest()


@dataclass(frozen=True)
class AttentionOutputError(Fitness):
    """Mean squared change of a layer's attention output when one group shares, run through the real layer.

    K, V, the softmax and the layers are in one unit: a fraction of the energy of the residual stream that the output
    is added to. Summed over groups, as if their changes were uncorrelated. ``tokens``: of the search text;
    ``refit_tokens``: as in ``kl``, so that what a refinement mends anyway does not count.
    """

    name: ClassVar[str] = "attention-output-error"
    reference: ClassVar[str] = "https://arxiv.org/abs/2210.17323"
    needs: ClassVar[Need] = "forward"
    summary: ClassVar[str] = "squared error of the attention output under the merge in use, measured (ours)"
    takes_sides: ClassVar[bool] = True

    tokens: int = 2048
    refit_tokens: int = 4096

    def __post_init__(self) -> None:
        check_tokens(self.tokens, self.refit_tokens)

    def prepare(self, context: FitnessContext) -> PreparedAttentionOutputError:
        return PreparedAttentionOutputError(self, context)

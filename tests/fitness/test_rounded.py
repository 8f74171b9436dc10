"""Fitness functions that run the model, with candidates whose caches are rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from gqasearch.evaluation import Converter, ParentLayers, ParentLogProbs, RoundedLayers, evaluate_quality
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights
from gqasearch.refining import Descent, LayersAlone
from gqasearch.rounding import parse_format
from gqasearch.testing import LAYERS, tiny_context
from gqasearch_fitness.kl import KLToParent
from gqasearch_fitness.perplexity import Perplexity

TWO = parse_format("2")
CANDIDATES = [Grouping((LayerGrouping.neighbours(6, 3),) * LAYERS), Grouping((LayerGrouping.singletons(6),) * LAYERS)]


def test_kl_and_perplexity_are_those_of_the_rounded_model() -> None:
    context = replace(tiny_context(), kv=TWO)
    blocks = context.load_search_blocks()
    reference = ParentLogProbs.compute(ParentLayers(context.parent), blocks)
    converter = Converter(context.parent, context.merge, context.load_statistics)
    models = [RoundedLayers(converter.runner(one), TWO) for one in CANDIDATES]
    found = KLToParent(tokens=10**6).prepare(context).evaluate(CANDIDATES)
    assert found == pytest.approx([reference.mean_kl(model) for model in models], rel=1e-5)
    assert found[1] > 1e-4, "nothing is shared, but all is rounded"
    _, own = evaluate_quality(ParentLayers(context.parent), dict(zip("ab", models, strict=True)), blocks)
    wanted = [own[name].perplexity for name in "ab"]
    assert Perplexity(tokens=10**6).prepare(context).evaluate(CANDIDATES) == pytest.approx(wanted, rel=1e-5)


def test_quick_and_whole_refinements_see_the_cache() -> None:
    """Against the same by hand: what stands in for the refinement fitted to the rounded cache, all run with it."""
    context = replace(tiny_context(), kv=TWO, refinement=Descent(steps=4))
    fitness = KLToParent(tokens=10**6, refit_tokens=10**6, descent_tokens=10**6, descent_steps=2).prepare(context)
    blocks, text, first = context.load_search_blocks(), context.load_calibration_blocks(), CANDIDATES[0]
    reference = ParentLogProbs.compute(ParentLayers(context.parent), blocks)
    converter = Converter(context.parent, context.merge, context.load_statistics)

    def rounded_kl(layers: Mapping[int, LayerWeights]) -> float:
        return reference.mean_kl(RoundedLayers(converter.runner(first, layers), TWO))

    alone = LayersAlone(context.parent, text, Descent(steps=2), kv=TWO)
    quick = {i: alone.refine(i, layer, converter.merged(i, layer)) for i, layer in enumerate(first)}
    assert fitness.evaluate([first]) == pytest.approx([rounded_kl(quick)], rel=1e-5)
    whole = converter.refine(first, text, context.refinement)  # as a run does, whose own steps are not rounded
    assert fitness.evaluate_refined([first]) == pytest.approx([rounded_kl(whole)], rel=1e-5)

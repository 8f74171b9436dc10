"""healed-kl: the contract, and its value against steps written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter
from gqasearch.fitness import Fitness, FitnessContext, PreparedFitness
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.healing import GroupedParent
from gqasearch.merging import Mean
from gqasearch.parameters import construct
from gqasearch.refining import Descent, LayersAlone, Outputs
from gqasearch.testing import LAYERS, FitnessContract, random_tokens, tiny_context, tiny_llama, tiny_statistics
from gqasearch_fitness.healed_kl import HealedKL
from gqasearch_fitness.kl import KLToParent
from tests.fitness.test_builtin import SHARED, long_tokens

STEPS = {"steps": 3, "step_tokens": 32}
OTHER = Grouping.uniform(LayerGrouping.from_labels([0, 0, 1, 1, 2, 2]), LAYERS)


class TestHealedKL(FitnessContract):
    def make(self) -> Fitness:
        return HealedKL(**STEPS)

    def test_unshared_is_zero(self) -> None:
        assert self.prepared().evaluate(self.candidates()[:1])[0] == 0.0


class TestHealedKLRefined(FitnessContract):
    """Of a model that will be refined."""

    def make(self) -> Fitness:
        return HealedKL(refit_tokens=40, descent_tokens=40, descent_steps=2, **STEPS)

    def prepared(self) -> PreparedFitness:
        return self.make().prepare(replace(tiny_context(), refinement=Descent(steps=4)))


def context_on(text: TokenBlocks, **changes: Any) -> FitnessContext:
    context = replace(tiny_context(), load_search_blocks=lambda: long_tokens(1), load_calibration_blocks=lambda: text)
    return replace(context, **changes)


def mean_kl(model: Any, blocks: TokenBlocks) -> float:
    """Mean over targets, from the logits of both."""
    with torch.no_grad():
        own = tiny_llama().model(blocks.ids, attention_mask=blocks.mask.long()).logits[:, :-1].log_softmax(-1)
        found = model(blocks.ids, blocks.mask.long()).logits[:, :-1].log_softmax(-1)
    per_token = (own.exp() * (own - found)).sum(-1)
    return float(per_token[blocks.mask[:, 1:]].double().mean())


def test_is_the_kl_after_these_steps() -> None:
    """Steps of two blocks each on the end of the calibration text, the first pair again after the last."""
    text = random_tokens(2)  # 4 blocks of 16
    parent, converter = tiny_llama(), Converter(tiny_llama(), Mean(), tiny_statistics)
    model = GroupedParent(parent, SHARED, {i: converter.merged_layer(SHARED, i) for i in range(LAYERS)})
    rates = [0.03 * float(tensor.detach().std(correction=0)) for tensor in model.parameters()]
    adam = torch.optim.Adam(
        [{"params": [p], "lr": rate} for p, rate in zip(model.parameters(), rates, strict=True)], betas=(0.9, 0.99)
    )
    before = mean_kl(model, long_tokens(1))
    for step in range(3):
        ids = text.ids[:2] if step % 2 == 0 else text.ids[2:]
        own = parent.model(ids).logits.detach()[:, :-1].log_softmax(-1)
        loss = (own.exp() * (own - model(ids).logits[:, :-1].log_softmax(-1))).sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        for group, rate in zip(adam.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / 3))
        adam.step()
    prepared = HealedKL(learning_rate=0.03, **STEPS).prepare(context_on(text))
    value = prepared.evaluate([SHARED])[0]
    assert value == pytest.approx(mean_kl(model, long_tokens(1)), rel=1e-4)
    assert value < 0.99 * before


def test_on_part_of_the_text_it_is_kl() -> None:
    context = context_on(random_tokens(2))
    healed, plain = HealedKL(**STEPS).prepare(context), KLToParent().prepare(context)
    assert healed.batch_tokens == plain.batch_tokens == (1024, 1024, 100)
    for batches in ([1], [2, 0]):
        found = healed.evaluate_batches([SHARED, OTHER], batches)
        assert found.tolist() == plain.evaluate_batches([SHARED, OTHER], batches).tolist()
    assert healed.evaluate([SHARED])[0] < plain.evaluate([SHARED])[0]
    assert healed.evaluate_batches([SHARED], [2, 0, 1]).tolist() == healed.evaluate([SHARED]).tolist()


def test_a_value_is_the_same_whatever_was_evaluated_before_and_is_computed_once(monkeypatch: Any) -> None:
    context = context_on(random_tokens(2))
    first, second = (HealedKL(**STEPS).prepare(context) for _ in range(2))
    alone = first.evaluate([SHARED])
    second.evaluate_batches([OTHER, SHARED], [0])
    beside = second.evaluate([OTHER, SHARED, OTHER])
    assert beside[1] == alone[0] and beside[0] == beside[2] != beside[1]
    monkeypatch.setattr(second.healing.__class__, "heal", None)
    assert second.evaluate([SHARED, OTHER]).tolist() == [beside[1], beside[0]]


def test_candidates_are_refined_quickly_and_finalists_as_the_result_will_be() -> None:
    parent, text = tiny_llama(), random_tokens(2)
    converter = Converter(parent, Mean(), tiny_statistics)
    fitness = HealedKL(refit_tokens=40, descent_tokens=40, descent_steps=4, **STEPS)
    prepared = fitness.prepare(context_on(text, refinement=Descent(steps=9, seed=3)))
    alone = LayersAlone(parent, text.first(40), Descent(steps=4, seed=3))
    quick = {i: alone.refine(i, layer, converter.merged_layer(SHARED, i)) for i, layer in enumerate(SHARED)}
    full = converter.refine(SHARED, text, Descent(steps=9, seed=3))
    wanted = [mean_kl(prepared.healing.heal(SHARED, layers), long_tokens(1)) for layers in (quick, full)]
    assert prepared.evaluate([SHARED])[0] == pytest.approx(wanted[0], rel=1e-4)
    assert prepared.evaluate_refined([SHARED])[0] == pytest.approx(wanted[1], rel=1e-4)
    assert wanted[0] != pytest.approx(wanted[1], rel=1e-3)
    refitted = replace(fitness, descent_steps=0).prepare(context_on(text, refinement=Outputs())).evaluate([SHARED])[0]
    assert refitted != pytest.approx(wanted[0], rel=3e-4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0; kl ranks without healing"),
        ({"step_tokens": 1}, "step_tokens must be at least 2, got 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate: must be a finite number, got nan"),
        ({"descent_tokens": -1}, "descent_tokens must be at least 0"),
        ({"learning_rat": 0.1}, "did you mean 'learning_rate'"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        construct(HealedKL, "fitness healed-kl", parameters)

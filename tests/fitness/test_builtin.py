"""The built-in fitness functions: the contract, and each against its definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.errors import UserError
from gqasearch.evaluation import Converter, evaluate_quality, model_runner
from gqasearch.fitness import (
    Fitness,
    PreparedFitness,
    PreparedGroupFitness,
    PreparedTextFitness,
    available_fitness,
    make_fitness,
)
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import Mean, Optimal
from gqasearch.models import decoder_layer, layers_replaced, tie_heads
from gqasearch.refining import Descent, LayersAlone, NoRefinement, Outputs, Refinement
from gqasearch.testing import (
    LAYERS,
    VOCABULARY,
    FitnessContract,
    random_tokens,
    tiny_context,
    tiny_llama,
    tiny_statistics,
)
from gqasearch_fitness.activation_cosine import ActivationCosine
from gqasearch_fitness.attention_output_error import AttentionOutputError
from gqasearch_fitness.kl import KLToParent
from gqasearch_fitness.merge_error import MergeError
from gqasearch_fitness.perplexity import Perplexity
from gqasearch_fitness.weight_sharing_error import WeightSharingError


class TestWeightSharingError(FitnessContract):
    def make(self) -> Fitness:
        return WeightSharingError()

    def test_is_the_sum_of_squares_around_the_mean(self) -> None:
        grouping = self.candidates()[2]
        wanted = 0.0
        for index, layer in enumerate(grouping):
            weights = tiny_llama().layer(index)
            for heads in layer.groups:
                for tensor in (weights.k.double(), weights.v.double()):
                    group = tensor[list(heads)]
                    wanted += float((group - group.mean(0)).square().sum())
        assert self.prepared().evaluate([grouping])[0] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("form", ["mean-pattern", "best-match", "token-wise"])
class TestActivationCosineForms:
    def distances(self, form: str, **weights: float) -> np.ndarray:
        fitness = make_fitness("activation-cosine", {"form": form, **weights})
        return fitness.prepare(tiny_context()).distances(0)

    def test_against_plain_loops(self, form: str) -> None:
        weights, sample = tiny_llama().layer(0), tiny_statistics().layer(0).sample
        heads = [sample.double() @ w.double().T for w in weights.k]
        unit = [torch.nn.functional.normalize(h, dim=-1) for h in heads]
        for i, j in ((0, 1), (2, 5)):
            if form == "mean-pattern":
                cosine = float(torch.nn.functional.cosine_similarity(heads[i].mean(0), heads[j].mean(0), dim=0))
            elif form == "token-wise":
                cosine = float((unit[i] * unit[j]).sum(-1).mean())
            else:
                table = unit[i] @ unit[j].T
                cosine = float(table.amax(0).mean() + table.amax(1).mean()) / 2
            found = self.distances(form, key_weight=1.0, value_weight=0.0)[i, j]
            assert found == pytest.approx(1 - cosine, abs=1e-5)

    def test_keys_and_values_are_weighted(self, form: str) -> None:
        key = self.distances(form, key_weight=1.0, value_weight=0.0)
        value = self.distances(form, key_weight=0.0, value_weight=1.0)
        both = self.distances(form, key_weight=0.25, value_weight=0.75)
        np.testing.assert_allclose(both, 0.25 * key + 0.75 * value, atol=1e-12)


class TestActivationCosine(FitnessContract):
    def make(self) -> Fitness:
        return ActivationCosine(form="best-match")


class TestMergeErrorOfMean(FitnessContract):
    def make(self) -> Fitness:
        return MergeError()

    def test_follows_the_merge(self) -> None:
        grouping = self.candidates()[1]
        mean, optimal = (
            MergeError().prepare(tiny_context(merge)).evaluate([grouping])[0] for merge in (Mean(), Optimal())
        )
        assert 0 < optimal < 0.9 * mean

    def test_is_relative_to_the_residual_stream(self) -> None:
        prepared = MergeError().prepare(tiny_context(Optimal()))
        layer = Optimal().for_layer(tiny_llama().layer(1), tiny_statistics().layer(1))
        energy = float(tiny_statistics().layer(1).residual_energy)
        assert prepared.group_error(1, (0, 3)) == pytest.approx(layer.group_error((0, 3)) / energy, rel=1e-12)

    def test_many_groups_at_once_have_the_bits_of_each_alone(self) -> None:
        groups = [(0, 3), (4,), (1, 2, 5), (0, 1), (0, 3), (0, 1, 2, 3, 4, 5)]
        for merge in (Mean(), Optimal()):
            together, alone = (MergeError().prepare(tiny_context(merge)) for _ in range(2))
            assert together.group_errors(1, groups) == [alone.group_error(1, heads) for heads in groups]


class Counted(PreparedGroupFitness):
    """Knows one group at a time, as a plug-in may; infinite for the heads 0 and 5."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, tuple[int, ...]]] = []

    def compute_group_error(self, layer: int, heads: tuple[int, ...]) -> float:
        self.asked.append((layer, heads))
        return np.inf if heads == (0, 5) else float(sum(heads) + 100 * layer)


def test_a_group_fitness_is_asked_once_per_group_and_layer() -> None:
    prepared = Counted()
    assert prepared.group_errors(1, [(0, 1), (2,), (0, 1), (3, 4)]) == [101.0, 0.0, 101.0, 107.0]
    assert prepared.group_error(0, (0, 1)) == 1.0 and prepared.layer_error(1, [(3, 4), (0, 1)]) == 208.0
    assert prepared.asked == [(1, (0, 1)), (1, (3, 4)), (0, (0, 1))]
    with pytest.raises(UserError, match=r"inf for heads \[0, 5\] of layer 1"):
        prepared.group_errors(1, [(1, 2), (0, 5)])


class TestPerplexity(FitnessContract):
    def make(self) -> Fitness:
        return Perplexity()

    # A random model's perplexity on random tokens has no reason to rise; its KL has.
    test_sharing_everything_is_worse_than_sharing_nothing = None

    def test_unshared_is_the_parents(self) -> None:
        own, _ = evaluate_quality(model_runner(tiny_llama().model), {}, random_tokens(1))
        assert self.prepared().evaluate(self.candidates()[:1])[0] == pytest.approx(own.perplexity, rel=1e-6)


class TestKL(FitnessContract):
    def make(self) -> Fitness:
        return KLToParent()

    def test_unshared_is_zero(self) -> None:
        assert self.prepared().evaluate(self.candidates()[:1])[0] == pytest.approx(0.0, abs=1e-6)


class TestKLRefitted(FitnessContract):
    """Of a model that will be refined."""

    def make(self) -> Fitness:
        return KLToParent(refit_tokens=40)

    def prepared(self) -> PreparedFitness:
        return self.make().prepare(replace(tiny_context(), refinement=Outputs()))


class TestAttentionOutputError(FitnessContract):
    def make(self) -> Fitness:
        return AttentionOutputError()

    def test_is_the_change_of_what_attention_gives(self) -> None:
        """Against the layer run on the parent's own input, its output compared token by token."""
        parent, layer, heads = tiny_llama(), 1, (0, 2, 5)
        grouping = LayerGrouping.from_groups([heads, (1,), (3,), (4,)])
        merged = Mean().for_layer(parent.layer(layer)).merge(grouping)
        blocks, seen, streams = random_tokens(1), [], []
        attention = parent.model.get_submodule(parent.family.attention_path(layer))

        def note(_module: object, _args: object, kwargs: dict[str, Any], output: Any) -> None:
            seen.append((kwargs, output[0]))

        handles = [
            attention.register_forward_hook(note, with_kwargs=True),
            decoder_layer(parent, layer).register_forward_pre_hook(lambda _module, args: streams.append(args[0])),
        ]
        with torch.no_grad():
            parent.model(input_ids=blocks.ids, use_cache=False)
        for handle in handles:
            handle.remove()
        ((kwargs, before),) = seen
        with torch.no_grad(), layers_replaced(parent, {layer: tie_heads(merged, grouping, 1)}):
            after = attention(**kwargs)[0]
        error = float((after - before).double()[blocks.mask].square().sum(1).mean())
        scale = float((streams[0] + before).double()[blocks.mask].square().sum(1).mean())
        assert self.prepared().group_error(layer, heads) == pytest.approx(error / scale, rel=1e-4)

    def test_a_refit_lowers_it(self) -> None:
        context = replace(tiny_context(), load_calibration_blocks=lambda: random_tokens(1))
        values = [
            self.make().prepare(replace(context, refinement=refinement)).evaluate([SHARED])[0]
            for refinement in (Outputs(), NoRefinement())
        ]
        assert values[0] < 0.9 * values[1]


def long_tokens(seed: int) -> TokenBlocks:
    """Three batches of 1024 tokens or fewer, the last block padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (9, 256), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[-1, 100:] = False
    return TokenBlocks(ids, mask, "random tokens")


SHARED = Grouping.uniform(LayerGrouping.from_labels([0, 1, 0, 0, 2, 1]), LAYERS)


@pytest.mark.parametrize("name", ["kl", "perplexity"])
class TestTextFitness:
    def prepared(self, name: str, tokens: int = 16384) -> PreparedTextFitness:
        context = replace(tiny_context(), load_search_blocks=lambda: long_tokens(1))
        prepared = make_fitness(name, {"tokens": tokens}).prepare(context)
        assert isinstance(prepared, PreparedTextFitness)
        return prepared

    def test_is_what_evaluation_measures(self, name: str) -> None:
        runner = Converter(tiny_llama(), Mean(), tiny_statistics).runner(SHARED)
        _, found = evaluate_quality(model_runner(tiny_llama().model), {"shared": runner}, long_tokens(1))
        wanted = getattr(found["shared"], name)
        assert self.prepared(name).evaluate([SHARED])[0] == pytest.approx(wanted, rel=1e-5)

    def test_batches_are_parts_of_the_text(self, name: str) -> None:
        prepared = self.prepared(name)
        assert prepared.batch_tokens == (1024, 1024, 100)
        whole = prepared.evaluate_batches([SHARED], range(3))
        assert whole.tolist() == prepared.evaluate([SHARED]).tolist()
        parts = [prepared.evaluate_batches([SHARED], [batch])[0] for batch in range(3)]
        logs = np.log(parts) if name == "perplexity" else np.array(parts)
        mean = np.average(logs, weights=[4 * 255, 4 * 255, 99])
        assert whole[0] == pytest.approx(np.exp(mean) if name == "perplexity" else mean, rel=1e-12)
        assert len(set(parts)) == 3

    def test_tokens_bound_the_text(self, name: str) -> None:
        assert self.prepared(name, tokens=1100).batch_tokens == (1024, 256)


@pytest.mark.parametrize("fitness", [KLToParent, Perplexity])
def test_the_calibration_text_is_read_only_where_a_refit_is_asked_for(fitness: type[KLToParent]) -> None:
    def unread() -> TokenBlocks:
        pytest.fail("the calibration text was read")

    context = replace(tiny_context(), load_calibration_blocks=unread)
    nothing: tuple[dict[str, int], ...] = ({"descent_tokens": 0}, {"descent_steps": 0})
    cases = [(NoRefinement(), {}), *((Descent(), {"refit_tokens": 0, **none}) for none in nothing)]
    for refinement, sizes in cases:
        fitness(**sizes).prepare(replace(context, refinement=refinement)).evaluate([SHARED])
    for sizes in ({"refit_tokens": 100, "descent_steps": 0}, {"refit_tokens": 0}):
        with pytest.raises(pytest.fail.Exception, match="was read"):
            fitness(**sizes).prepare(replace(context, refinement=Descent()))


def test_the_refit_is_that_of_each_layer_by_itself() -> None:
    parent = tiny_llama()
    alone = LayersAlone(parent, random_tokens(2).first(40), Outputs())
    converter = Converter(parent, Mean(), tiny_statistics)
    refitted = {i: alone.refine(i, layer, converter.merged_layer(SHARED, i)) for i, layer in enumerate(SHARED)}
    runners = {"merged": converter.runner(SHARED), "refitted": converter.runner(SHARED, refitted)}
    _, found = evaluate_quality(model_runner(parent.model), runners, random_tokens(1))
    context = replace(tiny_context(), refinement=Outputs())
    value = KLToParent(refit_tokens=40).prepare(context).evaluate([SHARED])[0]
    assert value == pytest.approx(found["refitted"].kl, rel=1e-4)
    assert value != pytest.approx(found["merged"].kl, rel=1e-2)


def test_on_all_of_the_text_candidates_are_ranked_after_a_short_descent_of_each_layer() -> None:
    parent, text = tiny_llama(), random_tokens(2).first(40)
    converter = Converter(parent, Mean(), tiny_statistics)
    context = replace(tiny_context(), refinement=Descent(steps=9, seed=3), load_search_blocks=lambda: long_tokens(1))
    prepared = KLToParent(refit_tokens=40, descent_tokens=40, descent_steps=4).prepare(context)
    runners = {}
    for way in (Descent(steps=4, seed=3), Outputs()):
        alone = LayersAlone(parent, text, way)
        refined = {i: alone.refine(i, layer, converter.merged_layer(SHARED, i)) for i, layer in enumerate(SHARED)}
        runners[way.name] = converter.runner(SHARED, refined)
    _, found = evaluate_quality(model_runner(parent.model), runners, long_tokens(1))
    assert prepared.evaluate([SHARED])[0] == pytest.approx(found["descent"].kl, rel=1e-4)
    assert found["descent"].kl != pytest.approx(found["outputs"].kl, rel=1e-3)
    parts = [prepared.evaluate_batches([SHARED], [batch])[0] for batch in range(3)]
    assert np.average(parts, weights=[4 * 255, 4 * 255, 99]) == pytest.approx(found["outputs"].kl, rel=1e-4)


@pytest.mark.parametrize("name", ["kl", "perplexity"])
@pytest.mark.parametrize("refinement", [Outputs(), Descent(steps=5, seed=3)], ids=lambda refinement: refinement.name)
def test_finalists_are_refined_as_the_result_will_be(name: str, refinement: Refinement) -> None:
    parent, text = tiny_llama(), random_tokens(2)
    converter = Converter(parent, Mean(), tiny_statistics)
    context = replace(
        tiny_context(),
        refinement=refinement,
        load_search_blocks=lambda: long_tokens(1),
        load_calibration_blocks=lambda: text,
    )
    prepared = make_fitness(name).prepare(context)
    assert isinstance(prepared, PreparedTextFitness)
    runner = converter.runner(SHARED, converter.refine(SHARED, text, refinement))
    _, found = evaluate_quality(model_runner(parent.model), {"refined": runner}, long_tokens(1))
    value = prepared.evaluate_refined([SHARED])[0]
    assert value == pytest.approx(getattr(found["refined"], name), rel=1e-4)
    # The stand-in refines each layer by itself: near it, and another number.
    assert value != prepared.evaluate([SHARED])[0]


@pytest.mark.parametrize("name", ["kl", "perplexity"])
@pytest.mark.parametrize("parameter", ["descent_tokens", "descent_steps", "refit_tokens"])
def test_negative_sizes_are_refused(name: str, parameter: str) -> None:
    with pytest.raises(UserError, match=f"{parameter} must be at least 0, got -1"):
        make_fitness(name, {parameter: -1})


def test_all_are_found_by_entry_point() -> None:
    expected = {
        "activation-cosine",
        "attention-output-error",
        "healed-kl",
        "kl",
        "merge-error",
        "perplexity",
        "weight-sharing-error",
    }
    assert set(available_fitness()) >= expected


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("merge-eror", {}, "did you mean 'merge-error'"),
        ("kl", {"token": 5}, "did you mean 'tokens'"),
        ("kl", {"tokens": "many"}, "parameter tokens: .*got 'many'"),
        ("kl", {"tokens": 1}, "tokens must be at least 2"),
        ("kl", {"refit_tokens": -1}, "refit_tokens must be at least 0"),
        ("perplexity", {"refit_tokens": -1}, "refit_tokens must be at least 0"),
        ("activation-cosine", {"form": "mean"}, "parameter form: .*got 'mean'"),
        ("activation-cosine", {"key_weight": -1.0}, "must be at least 0"),
    ],
)
def test_bad_requests_are_named(name: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_fitness(name, parameters)

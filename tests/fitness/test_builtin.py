"""The built-in fitness functions: the contract, and each against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gqasearch.errors import UserError
from gqasearch.evaluation import evaluate_quality, model_runner
from gqasearch.fitness import Fitness, available_fitness, make_fitness
from gqasearch.merging import Mean, Optimal
from gqasearch.testing import FitnessContract, random_tokens, tiny_context, tiny_llama, tiny_statistics
from gqasearch_fitness.activation_cosine import ActivationCosine
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


def test_all_are_found_by_entry_point() -> None:
    assert set(available_fitness()) >= {"activation-cosine", "kl", "merge-error", "perplexity", "weight-sharing-error"}


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("merge-eror", {}, "did you mean 'merge-error'"),
        ("kl", {"token": 5}, "did you mean 'tokens'"),
        ("kl", {"tokens": "many"}, "tokens='many'"),
        ("kl", {"tokens": 1}, "tokens must be at least 2"),
        ("activation-cosine", {"form": "mean"}, "form='mean'"),
        ("activation-cosine", {"key_weight": -1.0}, "must be at least 0"),
    ],
)
def test_bad_requests_are_named(name: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_fitness(name, parameters)

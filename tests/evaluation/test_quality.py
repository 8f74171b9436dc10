"""Perplexity, KL and memory against plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from gqasearch.evaluation import (
    Converter,
    ParentLogProbs,
    cached_kv_heads,
    evaluate_quality,
    kv_bytes_per_token,
    model_runner,
)
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from tests.samples import logits_of, random_blocks
from tests.tiny_models import tiny_parent


def test_quality_against_a_loop_over_tokens() -> None:
    parent, other = tiny_parent("llama"), tiny_parent("llama", seed=1)
    blocks = random_blocks(parent.config["vocab_size"], padded=True)
    own, found = evaluate_quality(
        model_runner(parent.model), {"other": model_runner(other.model)}, blocks, batch_blocks=4
    )
    nll, kl, count = 0.0, 0.0, 0
    a, b = (logits_of(p, blocks).double().log_softmax(-1) for p in (parent, other))
    for row, (ids, mask) in enumerate(zip(blocks.ids.tolist(), blocks.mask.tolist(), strict=True)):
        for position in range(1, len(ids)):
            if mask[position]:
                nll -= float(b[row, position - 1, ids[position]])
                p, q = a[row, position - 1], b[row, position - 1]
                kl += float((p.exp() * (p - q)).sum())
                count += 1
    quality = found["other"]
    assert quality.targets == own.targets == count
    assert quality.nll == pytest.approx(nll / count, rel=1e-5)
    assert quality.perplexity == pytest.approx(math.exp(nll / count), rel=1e-5)
    assert quality.kl == pytest.approx(kl / count, rel=1e-4)
    assert quality.bits_per_byte == pytest.approx(nll / count / math.log(2) / 3.0, rel=1e-5)
    assert own.kl == 0.0


def test_stored_parent_gives_the_same_kl_and_a_lower_bound_from_few_tokens() -> None:
    parent, other = tiny_parent("llama"), tiny_parent("llama", seed=1)
    blocks = random_blocks(parent.config["vocab_size"], padded=True)
    run, candidate = model_runner(parent.model), model_runner(other.model)
    exact = evaluate_quality(run, {"other": candidate}, blocks)[1]["other"].kl
    assert ParentLogProbs.compute(run, blocks).mean_kl(candidate) == pytest.approx(exact, rel=1e-5)
    kls = []
    for top in (5, 40, 200):
        few = ParentLogProbs.compute(run, blocks, top=top, exact_bytes=0)
        assert few.kept[0].probability.shape[-1] == top
        assert few.mean_kl(run) == pytest.approx(0.0, abs=1e-6)
        kls.append(few.mean_kl(candidate))
    assert 0 < kls[0] < kls[1] < kls[2] < exact
    everything = ParentLogProbs.compute(run, blocks, top=10_000, exact_bytes=0)
    assert everything.mean_kl(candidate) == pytest.approx(exact, rel=1e-5)


def test_kl_from_few_tokens_is_that_of_these_and_all_others_as_one() -> None:
    parent, other = tiny_parent("llama"), tiny_parent("llama", seed=1)
    blocks = random_blocks(parent.config["vocab_size"], padded=True)
    run, candidate = model_runner(parent.model), model_runner(other.model)
    p, q = (runner(blocks.ids, blocks.mask)[:, :-1].double().softmax(-1) for runner in (run, candidate))
    best = p.argsort(-1, descending=True)[..., :40]
    p, q = (
        torch.cat([found, 1 - found.sum(-1, keepdim=True)], -1) for found in (p.gather(-1, best), q.gather(-1, best))
    )
    wanted = (p * (p / q).log()).sum(-1)[blocks.mask[:, 1:]].mean()
    few = ParentLogProbs.compute(run, blocks, top=40, exact_bytes=0)
    assert few.mean_kl(candidate) == pytest.approx(float(wanted), rel=1e-4)


def test_kl_of_batches_adds_up_and_padding_is_no_target() -> None:
    parent, other = tiny_parent("llama"), tiny_parent("llama", seed=1)
    blocks = random_blocks(parent.config["vocab_size"], padded=True)
    run, candidate = model_runner(parent.model), model_runner(other.model)
    for top, exact_bytes in ((256, 2**28), (40, 0)):
        kept = ParentLogProbs.compute(run, blocks, batch_blocks=4, top=top, exact_bytes=exact_bytes)
        assert [targets.count for targets in kept.targets] == [4 * 23, 23 + 11]
        sums = [
            kept.summed_kl(i, kept.targets[i].chosen(candidate(*batch))) for i, batch in enumerate(blocks.batches(4))
        ]
        assert kept.mean_kl(candidate) == pytest.approx(sum(sums) / (5 * 23 + 11), rel=1e-12)
        ids, mask = list(blocks.batches(4))[1]
        logits = candidate(ids, mask)
        logits[~mask] = 50 * torch.rand(logits.shape)[~mask]
        assert kept.summed_kl(1, kept.targets[1].chosen(logits)) == sums[1]


def test_tied_runner_leaves_the_parent_as_it_was() -> None:
    parent = tiny_parent("qwen2")
    blocks = random_blocks(parent.config["vocab_size"])
    before = logits_of(parent, blocks)
    converter = Converter(parent, make_merge("mean"), lambda: pytest.fail("mean needs no statistics"))
    runner = converter.runner(Grouping.uniform(LayerGrouping.neighbours(6, 2), 2))
    assert not torch.allclose(runner(blocks.ids, blocks.mask), before, atol=1e-2)
    assert torch.equal(logits_of(parent, blocks), before)
    with pytest.raises(IndexError):
        runner(blocks.ids + 10_000, blocks.mask)
    assert torch.equal(logits_of(parent, blocks), before)


def test_cache_is_measured() -> None:
    parent = tiny_parent("llama", heads=6, kv_heads=3, layers=2, head_dim=8)
    assert cached_kv_heads(parent.model) == [3, 3]
    assert kv_bytes_per_token(parent.model) == 2 * 2 * 3 * 8 * 4
    assert Grouping.uniform(LayerGrouping.neighbours(6, 3), 2).kv_bytes_per_token(8, 4) == 2 * 2 * 3 * 8 * 4

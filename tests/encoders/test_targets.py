"""Masked text, and figures at its masked tokens, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from gqasearch.calibration import NO_TARGET, make_blocks, overlap
from gqasearch.calibration.masking import masked
from gqasearch.embedded import Document
from gqasearch.errors import UserError
from gqasearch.evaluation import (
    Converter,
    ParentLogProbs,
    PrefixLosses,
    computed_kv_bytes_per_token,
    evaluate_quality,
    model_runner,
)
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import tie_heads
from tests.samples import logits_of, random_text
from tests.tiny_encoders import ENCODERS, MASK, SPECIAL, encoder_parent, encoder_tokenizer, masked_blocks
from tests.tiny_models import tiny_tokenizer

DOCUMENTS = [Document("a", random_text(900)), Document("b", random_text(400, seed=1))]
PAIRS = Grouping.uniform(LayerGrouping.neighbours(6, 3), 2)


def test_blocks_have_their_frame_and_masks() -> None:
    blocks = make_blocks(DOCUMENTS, encoder_tokenizer(), 32, 10_000, "test", "masked")
    assert blocks.labels is not None
    assert bool((blocks.ids[:, 0] == 0).all())
    ends = blocks.mask.sum(1) - 1
    assert bool((blocks.ids[torch.arange(len(ends)), ends] == 2).all())
    assert bool((blocks.ids[~blocks.mask] == 1).all())
    chosen = blocks.labels != NO_TARGET
    assert torch.equal(chosen, blocks.ids == MASK)
    ordinary = blocks.mask.sum(1) - 2
    assert chosen.sum(1).tolist() == [max(1, round(0.15 * int(count))) for count in ordinary]
    assert bool((blocks.text[chosen] >= len(SPECIAL)).all())
    plain = make_blocks(DOCUMENTS, tiny_tokenizer(), 31, 10_000, "test")  # <s> and 30 bytes of text, ids two less
    full = blocks.mask.all(1) & plain.mask.all(1)
    assert torch.equal(blocks.text[full][:, 1:-1] - 2, plain.ids[full][:, 1:])


def test_masks_depend_on_the_block_alone() -> None:
    blocks = make_blocks(DOCUMENTS, encoder_tokenizer(), 32, 10_000, "test", "masked")
    few = make_blocks(DOCUMENTS[:1], encoder_tokenizer(), 32, 100, "test", "masked")
    assert blocks.labels is not None and few.labels is not None
    assert torch.equal(few.ids[0], blocks.ids[0]) and torch.equal(few.labels[0], blocks.labels[0])
    longer = torch.nn.functional.pad(blocks.text[:1], (0, 5), value=1)
    mask = torch.nn.functional.pad(blocks.mask[:1], (0, 5))
    assert torch.equal(masked(longer, mask, MASK, range(len(SPECIAL)))[0][:, :32], blocks.ids[:1])
    places = {tuple((row != NO_TARGET).nonzero()[:, 0].tolist()) for row in blocks.labels}
    assert len(places) > len(blocks.ids) // 2
    # Written down, so that no other version of this program or of a library moves them unnoticed.
    hidden, _ = masked(torch.arange(10, 30)[None], torch.ones(1, 20, dtype=torch.bool), 4, ())
    assert (hidden[0] == 4).nonzero()[:, 0].tolist() == [3, 5, 18]


def test_the_fingerprint_and_a_part_of_the_text_know_the_labels() -> None:
    blocks = make_blocks(DOCUMENTS, encoder_tokenizer(), 32, 10_000, "test", "masked")
    assert blocks.first(40).labels is not None and len(blocks.first(40).labels) == len(blocks.first(40).ids) == 2
    other = blocks.labels.clone()
    other[0][other[0] != NO_TARGET] = 7
    assert type(blocks)(blocks.ids, blocks.mask, "test", labels=other).fingerprint != blocks.fingerprint


def test_text_that_was_seen_is_seen_under_other_masks() -> None:
    reported = make_blocks(DOCUMENTS[:1], encoder_tokenizer(), 128, 10_000, "test", "masked")
    seen = make_blocks([Document("c", "x" * 40 + DOCUMENTS[0].text)], encoder_tokenizer(), 128, 10_000, "t", "masked")
    assert overlap(seen, reported) > 0.5


def test_without_a_mask_token_or_words_there_is_nothing_to_predict() -> None:
    with pytest.raises(UserError, match="its tokenizer has no mask token"):
        make_blocks(DOCUMENTS, tiny_tokenizer(), 32, 1000, "test", "masked")
    blind = encoder_tokenizer()
    blind.add_special_tokens({"additional_special_tokens": ["a", "b"]})
    with pytest.raises(UserError, match="special tokens alone"):
        make_blocks([Document("a", "ab" * 100)], blind, 32, 1000, "test", "masked")


@pytest.mark.parametrize("family", ENCODERS)
def test_quality_against_a_loop_over_masked_tokens(family: str) -> None:
    parent, other = encoder_parent(family), encoder_parent(family, seed=1)
    blocks = masked_blocks(padded=True)
    assert blocks.labels is not None
    own, found = evaluate_quality(
        model_runner(parent.model), {"other": model_runner(other.model)}, blocks, batch_blocks=4
    )
    a, b = (logits_of(p, blocks).double().log_softmax(-1) for p in (parent, other))
    nll, kl, per_block = 0.0, 0.0, []
    for row, labels in enumerate(blocks.labels.tolist()):
        kls = []
        for place, token in enumerate(labels):
            if token != NO_TARGET:
                assert blocks.ids[row, place] == MASK
                nll -= float(b[row, place, token])
                kls.append(float((a[row, place].exp() * (a[row, place] - b[row, place])).sum()))
        kl += sum(kls)
        per_block.append(sum(kls) / len(kls))
    count = int((blocks.labels != NO_TARGET).sum())
    quality = found["other"]
    assert quality.targets == own.targets == count == 5 * 4 + 2
    assert quality.perplexity == pytest.approx(math.exp(nll / count), rel=1e-4)
    assert quality.kl == pytest.approx(kl / count, rel=1e-4)
    assert quality.kl_blocks == pytest.approx(per_block, rel=1e-4)
    for top, exact_bytes in ((256, 2**28), (10_000, 0)):
        kept = ParentLogProbs.compute(
            model_runner(parent.model), blocks, batch_blocks=4, top=top, exact_bytes=exact_bytes
        )
        assert kept.mean_kl(model_runner(other.model)) == pytest.approx(kl / count, rel=1e-4)
        assert [targets.count for targets in kept.targets] == [16, 6]


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_candidates_run_from_the_middle_as_from_the_start(family: str) -> None:
    parent, blocks = encoder_parent(family), masked_blocks(padded=True)
    converter = Converter(parent, make_merge("mean"), lambda: pytest.fail("mean needs no statistics"))
    reference = ParentLogProbs.compute(model_runner(parent.model), blocks, batch_blocks=4)
    losses = PrefixLosses(
        parent,
        lambda index, layer: tie_heads(converter.layer_merge(index).merge(layer), layer, 1),
        blocks,
        4,
        reference.summed_kl,
    )
    lower = LayerGrouping.neighbours(6, 2)
    groupings = [Grouping((lower, LayerGrouping.neighbours(6, count))) for count in (2, 3, 6)]
    found = losses(groupings, range(2))
    wanted = [reference.mean_kl(converter.runner(grouping)) for grouping in groupings]
    assert found == pytest.approx(wanted, rel=1e-5)
    assert losses.layers_run < len(groupings) * 2 * blocks.tokens  # layer 0 once


def test_keys_and_values_are_counted_as_they_are_computed() -> None:
    parent = encoder_parent("bert")
    assert computed_kv_bytes_per_token(parent.model, parent.family, 2) == 2 * 2 * 6 * 8 * 4
    assert PAIRS.kv_bytes_per_token(8, 4) == 2 * 2 * 3 * 8 * 4

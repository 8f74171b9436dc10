"""What ``evaluate --generate`` is made of: continuations, figures by position, needles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import ParentLayers, Runner, WholeModel, model_runner
from gqasearch.evaluation.by_position import FIRST, by_position
from gqasearch.evaluation.generation import GumbelNoise, continuation, same_tokens
from gqasearch.evaluation.needles import KEY_TOKENS, NEEDLES, Needles, needles, right_answers
from tests.samples import logits_of, random_blocks
from tests.tiny_models import tiny_parent

PROMPT = [5, 9, 7, 30, 31]


def test_greedy_tokens_are_the_likeliest_of_the_whole_text() -> None:
    model = tiny_parent("llama").model
    model.generation_config.eos_token_id = None
    model.generation_config.repetition_penalty = 5.0  # a checkpoint's own taste; the two models may have others
    found = continuation(model, PROMPT, 12)
    text = list(PROMPT)
    for _ in range(12):  # without a cache
        with torch.no_grad():
            text.append(int(model(input_ids=torch.tensor([text])).logits[0, -1].argmax()))
    assert found == text[len(PROMPT) :]
    model.generation_config.eos_token_id = found[3]
    assert continuation(model, PROMPT, 12) == found[: found.index(found[3]) + 1]


def test_noise_samples_the_distribution_and_nothing_but_its_seed() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    noise = GumbelNoise(np.random.default_rng(0))
    drawn = torch.stack([noise(torch.zeros(1, 1), logits)[0].argmax() for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, logits.softmax(-1)[0], atol=0.03)
    model = tiny_parent("llama").model
    texts = [continuation(model, PROMPT, 12, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_tokens_alike() -> None:
    assert [same_tokens([1, 2, 3], other) for other in ([1, 2, 4], [2, 2, 3], [1, 2], [1, 2, 3, 4])] == [2, 0, 2, 3]


def test_positions_against_a_loop_over_tokens() -> None:
    parent, other = tiny_parent("llama"), tiny_parent("llama", seed=1)
    blocks = random_blocks(parent.config["vocab_size"], length=3 * FIRST, padded=True)
    rows = by_position(ParentLayers(parent), model_runner(other.model), blocks, batch_blocks=4)
    a, b = (logits_of(p, blocks).double().log_softmax(-1) for p in (parent, other))
    assert [(row.first, row.last) for row in rows] == [(1, 15), (16, 31), (32, 47)]
    for row in rows:
        places = range(row.first, row.last + 1)
        wanted = [(n, t) for n in range(len(blocks.ids)) for t in places if blocks.mask[n, t]]
        assert row.targets == len(wanted)
        losses = [-sum(float(p[n, t - 1, blocks.ids[n, t]]) for n, t in wanted) / len(wanted) for p in (a, b)]
        kl = sum(float((a[n, t - 1].exp() * (a - b)[n, t - 1]).sum()) for n, t in wanted) / len(wanted)
        found = [row.parent_perplexity, row.perplexity, row.kl]
        assert found == pytest.approx([*np.exp(losses), kl], rel=1e-4)


def _blocks(length: int = 64) -> TokenBlocks:
    return random_blocks(200, blocks=10, length=length)


def _asked(blocks: TokenBlocks, texts: int = 5) -> Needles:
    found = needles(blocks, texts, np.random.default_rng(3))
    assert found is not None
    return found


def _finds(ids: Tensor, mask: Tensor) -> Tensor:
    """A model that copies what followed the last tokens the time before."""
    logits = torch.zeros(*ids.shape, 200)
    for row, text in enumerate(ids.tolist()):
        key = text[-KEY_TOKENS:]
        places = [at for at in range(len(text) - KEY_TOKENS) if text[at : at + KEY_TOKENS] == key]
        logits[row, -1, text[places[-1] + KEY_TOKENS]] = 1.0
    return logits


def test_needles_lie_in_the_text_where_they_are_said_to() -> None:
    blocks = _blocks()
    asked = _asked(blocks)
    assert asked.ids.shape == (5 * NEEDLES, 64)
    for ids, values, answer, distance in zip(asked.ids, asked.values, asked.answers, asked.distances, strict=True):
        key, place = ids[-KEY_TOKENS:].tolist(), len(ids) - KEY_TOKENS - distance
        assert ids[place : place + KEY_TOKENS].tolist() == key and ids[place + KEY_TOKENS] == values[answer]
        assert len(set(values.tolist())) == NEEDLES
    assert len(set(asked.distances.tolist())) == NEEDLES and asked.distances.max() > 64 * 0.7
    assert (asked.ids == _asked(blocks).ids).all()


@pytest.mark.parametrize(("length", "vocabulary"), [(2 * NEEDLES, 200), (64, 8)])
def test_a_text_without_room_for_needles(length: int, vocabulary: int) -> None:
    assert needles(random_blocks(vocabulary, length=length), 5, np.random.default_rng(0)) is None


def test_padded_blocks_hide_no_needle() -> None:
    blocks = _blocks()
    padded = replace(blocks, mask=torch.cat([blocks.mask[:1], torch.zeros_like(blocks.mask[1:])]))
    assert (_asked(padded, 9).ids[:, 0] == int(blocks.ids[0, 0])).all()


def test_answers_of_one_that_finds_and_one_that_takes_the_first() -> None:
    asked = _asked(_blocks(), 9)

    def first(ids: Tensor, mask: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, 200)
        for row in range(len(ids)):
            text = next(i for i, known in enumerate(asked.ids) if (known == ids[row].numpy()).all())
            logits[row, -1, asked.values[text, 0]] = 1.0
        return logits

    runs: list[Runner] = [_finds, first]
    finds, takes = right_answers([WholeModel(run) for run in runs], asked, batch_blocks=7)
    assert finds.all() and (takes == (asked.answers == 0)).all()

"""Multiple choice by log-likelihood, and the task that is made from the embedded text."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gqasearch.embedded import ChoiceItem, Document, identifier_items, model_directory
from gqasearch.embedded.identifiers import CHOICES, CONTEXT, ITEMS
from gqasearch.evaluation import model_runner
from gqasearch.evaluation.choices import ChoiceScores, score_choices, share_and_error
from gqasearch.models.loading import load_model, load_tokenizer

ITEMS_BY_HAND = [
    ChoiceItem("def area(width, height):\n    return ", ("width", "height * 2", "x"), 0),
    ChoiceItem("import os", (".path", "\n"), 1),
    ChoiceItem("import os", ("mosis", " as"), 1),
]


@pytest.fixture(scope="module")
def items() -> list[ChoiceItem]:
    return identifier_items()


def test_log_likelihoods_equal_one_run_per_choice() -> None:
    model, tokenizer = load_model(model_directory(), torch.float32, "cpu"), load_tokenizer(model_directory())
    same = [ITEMS_BY_HAND[1], ITEMS_BY_HAND[2]]
    scores = score_choices(model_runner(model), tokenizer, same, batch=3)
    for item, found in zip(same, scores.log_likelihoods, strict=True):
        for choice, value in zip(item.choices, found, strict=True):
            whole, before = tokenizer(item.context + choice)["input_ids"], tokenizer(item.context)["input_ids"]
            with torch.no_grad():
                log_probs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            wanted = sum(float(log_probs[i - 1, whole[i]]) for i in range(len(before), len(whole)))
            assert value == pytest.approx(wanted, abs=1e-4)
    assert scores.lengths.tolist() == [[5, 1], [5, 3]]


def test_spaces_before_a_choice_are_its_own() -> None:
    """As lm-eval has it: "return " + "width" is asked as "return" + " width"."""
    model, tokenizer = load_model(model_directory(), torch.float32, "cpu"), load_tokenizer(model_directory())
    item = ITEMS_BY_HAND[0]
    moved = ChoiceItem(item.context.rstrip(), tuple(f" {choice}" for choice in item.choices), item.answer)
    run = model_runner(model)
    both = [score_choices(run, tokenizer, [one]).log_likelihoods for one in (item, moved)]
    np.testing.assert_allclose(*both, atol=1e-5)


def test_a_long_context_loses_its_beginning() -> None:
    model, tokenizer = load_model(model_directory(), torch.float32, "cpu"), load_tokenizer(model_directory())
    item = ChoiceItem("import this\n" * 200 + "x = values\nprint(", ("x", "y"), 0)
    found = score_choices(model_runner(model), tokenizer, [item], context_length=20).log_likelihoods[0]
    for choice, value in zip(item.choices, found, strict=True):
        # 20 tokens go in; the last of the 21 that count is only predicted
        ids = tokenizer(item.context + choice, verbose=False)["input_ids"][-21:]
        with torch.no_grad():
            log_probs = model(torch.tensor([ids[:-1]])).logits[0, -1].double().log_softmax(-1)
        assert value == pytest.approx(float(log_probs[ids[-1]]), abs=1e-4)


def test_shares() -> None:
    scores = ChoiceScores(np.array([[-1.0, -2.0], [-3.0, -4.0]]), np.array([[1, 4], [3, 8]]), np.array([0, 0]))
    assert scores.right.tolist() == [True, True]
    assert scores.right_by_length.tolist() == [False, False]
    assert share_and_error(np.array([True, True, True, False])) == (0.75, 0.25)
    share, error = share_and_error(np.array([True]))
    assert share == 1.0 and math.isnan(error)


def test_items_are_what_they_promise(items: list[ChoiceItem]) -> None:
    assert len(items) == ITEMS and items == identifier_items()
    assert len({(item.context, item.choices) for item in items}) == ITEMS
    for item in items:
        assert len(set(item.choices)) == len(item.choices) == CHOICES
        assert all(choice in item.context for choice in item.choices)
        assert len(item.context) <= CONTEXT and item.context.rpartition("\n")[2].strip()
    assert np.bincount([item.answer for item in items]).tolist() == [ITEMS // CHOICES] * CHOICES


def test_the_right_choice_is_what_the_source_says_next() -> None:
    source = "".join(
        f"def method_{i}(first, other):\n    total = first + other\n    return total\n\n" for i in range(9)
    )
    # A form feed ends a line for str.splitlines and not for the tokenizer.
    document = Document("made up", source.replace("def method_5", "\f\ndef method_5"))
    found = identifier_items(10_000, [document])
    assert found
    for item in found:
        after = document.text.partition(item.context)[2]
        assert after.startswith(item.choices[item.answer])
    assert len(identifier_items(4, [document])) == 4


@pytest.mark.nightly
def test_the_embedded_model_finds_more_than_guessing(items: list[ChoiceItem]) -> None:
    model, tokenizer = load_model(model_directory(), torch.float32, "cpu"), load_tokenizer(model_directory())
    steps: list[tuple[int, int]] = []
    scores = score_choices(
        model_runner(model), tokenizer, items[:60], progress=lambda done, total: steps.append((done, total))
    )
    assert scores.right.mean() > 1 / CHOICES + 0.15
    assert steps[-1] == (60, 60) and steps == sorted(steps)

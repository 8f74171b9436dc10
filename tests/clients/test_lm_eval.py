"""lm-eval: log-likelihoods of continuations, in every layout; those with code of their own are trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gqasearch.embedded import identifier_items, tasks_directory
from gqasearch.embedded.identifiers import NAME
from gqasearch.evaluation import model_runner
from gqasearch.evaluation.choices import score_choices, share_and_error
from gqasearch.models.loading import load_model, load_tokenizer
from tests.checkpoints.convert import reference
from tests.clients.cases import LAYOUTS, TOLERANCE, Case, Converted, make_case
from tests.clients.client import Client
from tests.clients.summary import Record

LM_EVAL = Client("lm_eval", "lm-eval")
MODELS = {"embedded": tuple(LAYOUTS), "mistral": tuple(LAYOUTS), "opt": ("ragged",), "gpt2": ("ragged",)}


@pytest.mark.parametrize("model", MODELS)
def test_layouts(model: str, tmp_path: Path, record_property: Any) -> None:
    LM_EVAL.require()
    case = make_case(model, MODELS[model], tmp_path)
    requests = [
        converted.request(continuations=continuations(converted), trust=not layout.startswith("stock"))
        for layout, converted in case.converted.items()
    ]
    answer = LM_EVAL.run("run.py", requests, tmp_path)
    for (layout, converted), result in zip(case.converted.items(), answer.result, strict=True):
        values, greedy = zip(*result["found"], strict=True)
        largest = max(abs(a - b) for a, b in zip(values, expected_values(case, converted), strict=True))
        assert largest <= TOLERANCE
        assert greedy == (True, False)
        Record(LM_EVAL.title, result["version"], layout, model, largest).write(record_property)


def test_our_task_is_answered_as_by_our_own_scoring(tmp_path: Path) -> None:
    """By lm-eval itself, item by item, and as ``gqasearch evaluate --tasks`` hands a task over."""
    LM_EVAL.require()
    folder, limit = make_case("embedded", ("stock-padded",), tmp_path).converted["stock-padded"].folder, 40
    mine = score_choices(
        model_runner(load_model(folder, torch.float32, "cpu")), load_tokenizer(folder), identifier_items()[:limit]
    )
    request = {"model": str(folder), "task": NAME, "limit": limit, "include_path": str(tasks_directory())}
    theirs = LM_EVAL.run("task.py", request, tmp_path).result
    np.testing.assert_allclose(theirs["values"], mine.log_likelihoods, atol=20 * TOLERANCE)
    assert theirs["right"] == mine.right.astype(float).tolist()
    assert 0 < sum(theirs["right"]) < limit
    shares = {"acc": share_and_error(mine.right), "acc_norm": share_and_error(mine.right_by_length)}
    scores = {metric: (value, stderr, items) for metric, value, stderr, items in theirs["handed_over"]["scores"]}
    assert scores.keys() == shares.keys()
    for metric, (share, error) in shares.items():
        assert theirs["results"][f"{metric},none"] == pytest.approx(share)
        assert theirs["results"][f"{metric}_stderr,none"] == pytest.approx(error)
        assert scores[metric] == (pytest.approx(share), pytest.approx(error), limit)
    assert "unknown task 'hellaswga'; did you mean 'hellaswag'?" in theirs["handed_over"]["refused"]


def continuations(converted: Converted) -> list[list[int]]:
    """What the model says itself, and other tokens (a tiny model may say one token over and over)."""
    return [converted.greedy, [token - 1 for token in converted.greedy]]


def expected_values(case: Case, converted: Converted) -> list[float]:
    """Log-likelihoods of the continuations by the parent with tied heads."""
    values = []
    start = len(converted.prompts[-1])
    with torch.no_grad(), reference(case.parent, converted.grouping) as tied:
        for tokens in continuations(converted):
            ids = torch.tensor([converted.prompts[-1] + tokens])
            log_probs = tied(ids).logits[0, start - 1 : -1].double().log_softmax(-1)
            values.append(float(log_probs.gather(1, torch.tensor(tokens)[:, None]).sum()))
    return values

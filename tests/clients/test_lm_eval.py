"""lm-eval: log-likelihoods of continuations, in every layout; those with code of their own are trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

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

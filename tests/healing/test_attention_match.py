"""The error of a student's attention outputs against its parent's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gqasearch.healing.attention_match import AttentionMatch
from tests.checkpoints.convert import some_ids
from tests.tiny_models import tiny_model

PATHS = ["model.layers.0.self_attn", "model.layers.1.self_attn"]


def outputs_of(model: Any) -> list[Tensor]:
    """What every attention block gives, by hand."""
    found: list[Tensor] = []
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda _m, _a, out: found.append(out[0])) for path in PATHS
    ]
    with torch.no_grad():
        model(some_ids())
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_mean_over_layers_of_the_relative_squared_error(seed: int) -> None:
    student, parent = tiny_model("llama", seed=seed), tiny_model("llama")
    mine, theirs = outputs_of(student), outputs_of(parent)
    pairs = zip(mine, theirs, strict=True)
    wanted = sum(float((a - b).square().sum() / b.square().sum()) for a, b in pairs) / len(PATHS)
    match = AttentionMatch(student, parent, PATHS)
    with torch.no_grad():
        student(some_ids())
        parent(some_ids())
        assert float(match.error()) == pytest.approx(wanted, rel=1e-5)
    assert (wanted == 0) == (seed == 0)


def test_a_step_along_its_gradient_makes_it_smaller() -> None:
    student, parent = tiny_model("llama", seed=1), tiny_model("llama")
    match, optimizer = AttentionMatch(student, parent, PATHS), torch.optim.SGD(student.parameters(), lr=1e-2)
    errors = []
    for _ in range(3):
        student(some_ids())
        with torch.no_grad():
            parent(some_ids())
        error = match.error()
        errors.append(float(error.detach()))
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert errors[2] < errors[1] < errors[0]

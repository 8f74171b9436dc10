"""longrope turns by other frequencies from a length on: a short text is measured as if it were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gqasearch.calibration import TokenBlocks, collect, make_blocks
from gqasearch.embedded import ChoiceItem, Document
from gqasearch.evaluation import evaluate_quality, model_runner
from gqasearch.evaluation.choices import score_choices
from gqasearch.models import Parent
from tests.samples import random_text
from tests.tiny_models import tiny_parent, tiny_tokenizer

SHORT = 16
LENGTHS = (40, 9, 40, 20, 12)
LIMITS = ("rope_parameters", "original_max_position_embeddings", "max_position_embeddings")


@pytest.fixture(scope="module")
def parent() -> Parent:
    pairs = 4
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * pairs,
        "long_factor": [3.0] * pairs,
    }
    limits = {"original_max_position_embeddings": SHORT, "max_position_embeddings": 64}
    return tiny_parent("phi3", rope_parameters=rope, **limits)


@pytest.fixture(scope="module")
def blocks(parent: Parent) -> TokenBlocks:
    documents = [Document(str(size), random_text(size, size)) for size in LENGTHS]
    short = parent.family.short_length(parent.config)
    return make_blocks(documents, tiny_tokenizer(), 41, 10_000, "test", short_length=short)


def alone(parent: Parent, blocks: TokenBlocks) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every block without padding: its tokens (T,), and (T, V) log-probabilities."""
    run = model_runner(parent.model)
    rows = [ids[mask] for ids, mask in zip(blocks.ids, blocks.mask, strict=True)]
    return [(row, run(row[None], torch.ones(1, len(row), dtype=torch.bool))[0].log_softmax(-1)) for row in rows]


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, SHORT),
        ({"original_max_position_embeddings": 32}, 32),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, None),
    ],
)
def test_the_length_is_that_at_which_transformers_changes(
    parent: Parent, fields: dict[str, Any], wanted: int | None
) -> None:
    config = {**parent.config, **fields}
    assert parent.family.short_length(config) == wanted
    model = tiny_parent("phi3", **{name: config[name] for name in LIMITS}).model
    rotary, ids = model.model.rotary_emb, torch.zeros(1, 40, dtype=torch.int64)
    speeds = []
    for length in range(1, 41):
        model(input_ids=ids[:, :length])
        speeds.append(float(rotary.inv_freq[-1]))
    changes = [length for length in range(1, 40) if speeds[length] != speeds[length - 1]]
    assert changes == ([] if wanted is None else [wanted])


def test_quality(parent: Parent, blocks: TokenBlocks) -> None:
    assert sorted(blocks.mask.sum(1).tolist()) == [10, 12, 21, 41, 41]
    losses = [-logp[:-1].gather(1, ids[1:, None]) for ids, logp in alone(parent, blocks)]
    found, _ = evaluate_quality(model_runner(parent.model), {}, blocks)
    assert found.nll == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


def test_statistics(parent: Parent, blocks: TokenBlocks, tmp_path: Path) -> None:
    layer = list(collect(parent, blocks, tmp_path))[1]
    seen = []
    for ids, mask in zip(blocks.ids, blocks.mask, strict=True):
        with torch.no_grad():
            hidden = parent.model(input_ids=ids[mask][None], output_hidden_states=True).hidden_states[1]
            seen.append(parent.model.model.layers[1].input_layernorm(hidden)[0])
    x = torch.cat(seen).double()
    torch.testing.assert_close(layer.second_moment, x.T @ x / len(x), rtol=1e-4, atol=1e-5)
    assert layer.cosines.shape[0] == layer.distance.shape[1] == 41


def test_choices(parent: Parent) -> None:
    items = [ChoiceItem("abc " * 2, ("defg", "hij" * 7), 0), ChoiceItem("k" * 14, ("lm", "no"), 1)]
    short = parent.family.short_length(parent.config)
    run = model_runner(parent.model)
    together = score_choices(run, tiny_tokenizer(), items, short_length=short)
    mixed = score_choices(run, tiny_tokenizer(), items)
    one_by_one = score_choices(run, tiny_tokenizer(), items, batch=1)
    assert together.log_likelihoods == pytest.approx(one_by_one.log_likelihoods, rel=1e-5)
    assert mixed.log_likelihoods != pytest.approx(one_by_one.log_likelihoods, rel=1e-3)

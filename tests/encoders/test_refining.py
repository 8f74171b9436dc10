"""Refinements of a post-norm model: the target is the stream before its norm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import AttentionCalls, Converter, evaluate_quality, model_runner
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import Parent, decoder_layer, layers_replaced, outputs_noted
from gqasearch.refining import LayersAlone, Outputs, Streams
from tests.matrix import sampled
from tests.refining.cases import (
    REFINING,
    converter_of,
    copied_heads,
    refinement,
    site_error,
    site_of,
    state_of,
    untouched,
)
from tests.samples import logits_of
from tests.tiny_encoders import ENCODERS, encoder_parent, masked_blocks

PAIRS, THIRDS = (Grouping.uniform(LayerGrouping.neighbours(6, groups), 2) for groups in (3, 2))


@pytest.mark.parametrize("name", REFINING)
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_merged_copies_leave_logits_where_they_were(family: str, name: str, tmp_path: Path) -> None:
    parent, blocks = encoder_parent(family), masked_blocks(blocks=20, padded=True)
    with layers_replaced(parent, {index: copied_heads(parent.layer(index)) for index in range(2)}):
        before = logits_of(parent, blocks)[blocks.mask]
        converter = converter_of(parent, tmp_path, "mean")
        refined = converter.refine(PAIRS, blocks, refinement(name))
        with layers_replaced(parent, converter.tied_layers(PAIRS, refined)):
            after = logits_of(parent, blocks)[blocks.mask]
    assert set(refined) == {0, 1}
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", REFINING)
@pytest.mark.parametrize("family", sampled(ENCODERS, ["roberta", "distilbert"]))
def test_every_encoder_comes_closer_to_its_parent(family: str, name: str, tmp_path: Path) -> None:
    parent, blocks = encoder_parent(family), masked_blocks(blocks=20, padded=True)
    before = state_of(parent)
    converter = converter_of(parent, tmp_path)
    refined = converter.refine(THIRDS, blocks, refinement(name))
    runners = {"plain": converter.runner(THIRDS), "refined": converter.runner(THIRDS, refined)}
    _, found = evaluate_quality(model_runner(parent.model), runners, blocks)
    assert found["refined"].kl < 0.9 * found["plain"].kl
    site = site_of(parent, THIRDS, blocks)
    errors = [site_error(site, weights) for weights in (converter.merged_layer(THIRDS, 0), refined[0])]
    assert errors[1] < 0.95 * errors[0]
    assert untouched(parent, before)


@pytest.mark.parametrize(("family", "norm"), [("bert", "attention.output.LayerNorm"), ("distilbert", "sa_layer_norm")])
def test_the_target_is_the_parents_stream_before_its_norm(family: str, norm: str, tmp_path: Path) -> None:
    """Attention that gave what is wanted, above a converted layer, would leave what the parent's leaves."""
    parent, blocks = encoder_parent(family), masked_blocks(blocks=4, padded=True)
    converter = converter_of(parent, tmp_path)
    with torch.no_grad():
        streams = Streams(parent, blocks, 4)
        streams.advance_parent(0)
        streams.advance_converted(0, converter.tied_layers(PAIRS)[0])
        streams.advance_parent(1)
        (call,) = streams.site(1, PAIRS.layers[1]).calls
        normed = decoder_layer(parent, 1).get_submodule(norm)
        found = normed(call.hidden + call.wanted)[blocks.mask]
        with outputs_noted(normed) as noted:
            logits_of(parent, blocks)
    torch.testing.assert_close(found, noted[0][blocks.mask], atol=1e-5, rtol=1e-5)
    assert float((call.hidden - _input_of(parent, blocks))[blocks.mask].abs().max()) > 0.1


def _input_of(parent: Parent, blocks: TokenBlocks) -> torch.Tensor:
    """What enters the parent's layer 1."""
    with outputs_noted(decoder_layer(parent, 0)) as noted:
        logits_of(parent, blocks)
    return noted[0]


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_attention_alone_is_given_its_mask(family: str, tmp_path: Path) -> None:
    """The parent's own layer gives what it gave in the model, padding or not; a merged one errs."""
    parent, blocks = encoder_parent(family), masked_blocks(padded=True)
    calls, converter = AttentionCalls(parent, blocks, batch_blocks=4), converter_of(parent, tmp_path)
    for index in range(2):
        for batch in calls.run(index, parent.layer(index)):
            torch.testing.assert_close(batch.output, batch.parent, atol=1e-6, rtol=1e-5)
        errors = [
            float((batch.output - batch.parent).square().sum())
            for batch in calls.run(index, converter.tied_layers(PAIRS)[index])
        ]
        assert min(errors) > 1e-3
    statistics = converter.layer_merge(0).require_statistics()
    assert calls.residual_energy(0) == pytest.approx(float(statistics.residual_energy), rel=0.2)  # another text


def test_a_layer_refined_alone_errs_less(tmp_path: Path) -> None:
    parent, blocks = encoder_parent("roberta"), masked_blocks(blocks=20, padded=True)
    converter: Converter = converter_of(parent, tmp_path)
    alone = LayersAlone(parent, blocks, Outputs())
    merged = converter.merged_layer(PAIRS, 1)
    site = site_of(parent, PAIRS, blocks, 1)
    assert site_error(site, alone.refine(1, PAIRS.layers[1], merged)) < site_error(site, merged)

"""A text that goes up a layer at a time against whole forward passes."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gqasearch.calibration import TokenBlocks
from gqasearch.evaluation import (
    AttentionCalls,
    Converter,
    LayerStack,
    ParentLayers,
    Quality,
    WholeModel,
    counted_forwards,
    evaluate_quality,
    model_runner,
)
from gqasearch.evaluation.climb import climb
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.merging import make_merge
from gqasearch.models import Parent, layers_replaced, output_projection
from gqasearch.models.loading_on_demand import load_on_demand
from gqasearch.models.on_demand import OnDemand
from tests.matrix import sampled
from tests.samples import logits_of, random_blocks
from tests.tiny_encoders import ENCODERS, encoder_parent, masked_blocks
from tests.tiny_models import (
    ALL_FAMILY_NAMES,
    MORE_FAMILY_NAMES,
    VOCAB_SIZE,
    save_checkpoint,
    tiny_model,
    tiny_parent,
)

# Of each kind of code around the layers: layers that give tuples, two kinds of masks and capped logits, learned
# positions, a module between body and head; and encoders, which are asked for few tokens.
KINDS = ("llama", "falcon", "gemma2", "gpt2", "opt", "bert", "distilbert", "electra")
EVERY_NAME = (*ALL_FAMILY_NAMES, *MORE_FAMILY_NAMES, *ENCODERS)
EVERY = sampled(EVERY_NAME, KINDS)
PAIRS, THIRDS, WHOLE = LayerGrouping.neighbours(6, 3), LayerGrouping.neighbours(6, 2), LayerGrouping.singletons(6)
LOWER, UPPER = Grouping((PAIRS, THIRDS)), Grouping((WHOLE, PAIRS))


@cache
def parent_of(family: str) -> Parent:
    return encoder_parent(family) if family in ENCODERS else tiny_parent(family)


@cache
def text_for(family: str) -> TokenBlocks:
    """Six blocks, the last half padded."""
    return masked_blocks(padded=True) if family in ENCODERS else random_blocks(VOCAB_SIZE, padded=True)


def converter_of(parent: Parent) -> Converter:
    return Converter(parent, make_merge("mean"), lambda: pytest.fail("mean needs no statistics"))


def candidates(family: str) -> dict[str, LayerStack]:
    converter = converter_of(parent_of(family))
    return {"lower": converter.runner(LOWER), "upper": converter.runner(UPPER)}


def whole(parent: Parent, grouping: Grouping) -> WholeModel:
    """The converted model as one forward pass of transformers."""
    tied, run = converter_of(parent).tied_layers(grouping), model_runner(parent.model)

    def run_tied(ids: Tensor, mask: Tensor) -> Tensor:
        with layers_replaced(parent, tied):
            return run(ids, mask)

    return WholeModel(run_tied)


def assert_close(found: Quality, wanted: Quality, rel: float) -> None:
    assert found.targets == wanted.targets
    assert (found.nll, found.kl) == pytest.approx((wanted.nll, wanted.kl), rel=rel, abs=1e-9)
    assert found.kl_blocks == pytest.approx(wanted.kl_blocks, rel=rel, abs=1e-9)


@pytest.mark.parametrize("family", EVERY)
def test_figures_are_those_of_whole_forward_passes(family: str) -> None:
    parent, blocks = parent_of(family), text_for(family)
    own, found = evaluate_quality(ParentLayers(parent), candidates(family), blocks, batch_blocks=4)
    wholes = {"lower": whole(parent, LOWER), "upper": whole(parent, UPPER)}
    wanted_own, wanted = evaluate_quality(model_runner(parent.model), wholes, blocks, batch_blocks=4)
    assert_close(own, wanted_own, 1e-5)
    for name in found:
        assert_close(found[name], wanted[name], 1e-5)
    assert own.kl == 0.0 and min(one.kl for one in found.values()) > 1e-3


@pytest.mark.parametrize("family", EVERY)
def test_called_it_gives_whole_logits(family: str) -> None:
    parent, blocks = parent_of(family), text_for(family)
    torch.testing.assert_close(ParentLayers(parent)(blocks.ids, blocks.mask), logits_of(parent, blocks))
    found = converter_of(parent).runner(LOWER)(blocks.ids, blocks.mask)
    torch.testing.assert_close(found, whole(parent, LOWER)(blocks.ids, blocks.mask))


def test_any_bound_of_memory_gives_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    family = "llama"
    wanted = evaluate_quality(ParentLayers(parent_of(family)), candidates(family), text_for(family), batch_blocks=2)
    loads: list[int] = []
    loaded = Parent.layer_loaded
    monkeypatch.setattr(Parent, "layer_loaded", lambda self, index: loads.append(index) or loaded(self, index))
    batch = 2 * 24 * 48 * 4 * 3  # of three models
    for hidden_bytes, climbs in ((0, 3), (batch, 3), (2 * batch + 30_000, 2), (2**28, 1)):
        loads.clear()
        found = evaluate_quality(
            *(ParentLayers(parent_of(family)), candidates(family), text_for(family)),
            batch_blocks=2,
            hidden_bytes=hidden_bytes,
        )
        assert found == wanted
        # "upper" has nothing of its own in layer 0.
        assert Counter(loads) == {0: 2 * climbs, 1: 3 * climbs}


def test_few_logits_exist_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    family = "llama"
    wanted = evaluate_quality(ParentLayers(parent_of(family)), candidates(family), text_for(family))[1]
    monkeypatch.setattr("gqasearch.evaluation.runners.LOGIT_BYTES", 7 * 4 * VOCAB_SIZE)
    stacks = [ParentLayers(parent_of(family)), *candidates(family).values(), whole(parent_of(family), LOWER)]
    for part in climb(stacks, text_for(family), 8):
        assert {scores.shape for scores in part.scores} == {(len(part.tokens), VOCAB_SIZE)} and len(part.tokens) <= 7
    found = evaluate_quality(ParentLayers(parent_of(family)), candidates(family), text_for(family))[1]
    for name in found:
        assert_close(found[name], wanted[name], 1e-5)


def test_a_learned_number_of_positions_is_never_exceeded() -> None:
    """OPT and GPT-2 have no position beyond: more tokens are predicted from in several calls."""
    blocks = random_blocks(VOCAB_SIZE, blocks=9)
    for family in ("opt", "gpt2"):
        parent = parent_of(family)
        assert (parent.family.context_length(parent.config) or 0) < 9 * 23
        own, _ = evaluate_quality(ParentLayers(parent), {}, blocks, batch_blocks=9)
        wanted, _ = evaluate_quality(model_runner(parent.model), {}, blocks, batch_blocks=9)
        assert_close(own, wanted, 1e-5)


def test_what_models_share_is_computed_once() -> None:
    parent, blocks = parent_of("qwen2"), text_for("qwen2")
    with counted_forwards(parent) as forwards:
        evaluate_quality(ParentLayers(parent), candidates("qwen2"), blocks)
    # Of two layers: the parent's both, both of "lower", the second of "upper".
    assert forwards.tokens == blocks.ids.numel() * (2 + 2 + 1) / 2


def test_a_small_kl_is_that_of_float64() -> None:
    """Of weights that differ by a thousandth: the sum must not drown in rounding."""
    parent, blocks = tiny_parent("llama", layers=2), random_blocks(VOCAB_SIZE, padded=True)
    near = tiny_parent("llama", layers=2)
    with torch.no_grad():
        for parameter in near.model.parameters():
            parameter.mul_(1 + 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    found = evaluate_quality(ParentLayers(parent), {"near": ParentLayers(near)}, blocks)[1]["near"]
    a, b = (logits_of(one, blocks)[:, :-1].double().log_softmax(-1) for one in (parent, near))
    kl = (a.exp() * (a - b)).sum(-1)[blocks.mask[:, 1:]]
    assert 1e-6 < float(kl.mean()) < 1e-4
    assert found.kl == pytest.approx(float(kl.mean()), rel=2e-2)


def test_progress_rises_to_all_blocks() -> None:
    seen: list[tuple[int, int]] = []
    blocks = text_for("llama")
    evaluate_quality(
        *(ParentLayers(parent_of("llama")), {}, blocks),
        batch_blocks=2,
        hidden_bytes=0,
        progress=lambda done, total: seen.append((done, total)),
    )
    done = [one for one, _ in seen]
    assert done == sorted(done) and seen[-1] == (6, 6) and len(set(done)) > 3


@pytest.mark.parametrize("tied", [False, True])
def test_weights_on_disk_are_read_once(tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", tied=tied)
    save_checkpoint(model, tmp_path)
    blocks, in_memory = text_for("llama"), Parent.from_model(model)
    wanted = evaluate_quality(ParentLayers(in_memory), {"it": converter_of(in_memory).runner(LOWER)}, blocks)
    parent = Parent.from_model(load_on_demand(tmp_path, torch.float32, "cpu", room=0))
    merged = converter_of(parent).tied_layers(LOWER)
    reads: Counter[str] = Counter()
    read = OnDemand.read

    def counted(self: OnDemand, name: str) -> Tensor:
        reads[name] += self._slots[name][1].is_empty
        return read(self, name)

    monkeypatch.setattr(OnDemand, "read", counted)
    runner = ParentLayers(parent, merged, merged.__getitem__)
    found = evaluate_quality(ParentLayers(parent), {"it": runner}, blocks, batch_blocks=2)
    assert found[1]["it"].kl == pytest.approx(wanted[1]["it"].kl, rel=1e-6)
    # Attention's are put back between the two models; norms are small.
    others = {name: count for name, count in reads.items() if ".self_attn." not in name and "norm" not in name}
    # Tied, the embeddings are the head: read before the layers, and again after them.
    assert others.pop("model.embed_tokens.weight") == (2 if tied else 1)
    assert "model.layers.1.mlp.up_proj.weight" in others and ("lm_head.weight" in others) is not tied
    assert set(others.values()) == {1}


@pytest.mark.parametrize("family", sampled(EVERY_NAME, ("falcon", "gemma2", "gpt2")))
def test_attention_blocks_are_given_what_they_get_in_the_model(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, blocks = parent_of(family), text_for(family)
    given: list[Tensor] = []
    handle = output_projection(parent, 1).register_forward_hook(lambda _m, _a, out: given.append(out))
    logits_of(parent, blocks)
    handle.remove()
    other = converter_of(parent).tied_layers(LOWER)[1]
    errors = []
    for room in (2**27, 0):
        monkeypatch.setattr("gqasearch.evaluation.attention_calls.ROOM", room)
        calls = AttentionCalls(parent, blocks, batch_blocks=4, calls_bytes=room)
        parts = list(calls.run(1, parent.layer(1)))
        for part in parts:
            torch.testing.assert_close(part.output, part.parent)
        torch.testing.assert_close(
            torch.cat([part.parent for part in parts]), given[0][blocks.mask], atol=1e-5, rtol=1e-5
        )
        calls.residual_energy(0)
        errors.append(sum(float((part.output - part.parent).square().sum()) for part in calls.run(1, other)))
    assert errors[0] == errors[1] > 1e-3

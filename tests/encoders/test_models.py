"""Encoders: heads, merges, what is read of the files, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gqasearch.calibration import collect
from gqasearch.errors import UserError
from gqasearch.grouping import LayerGrouping
from gqasearch.merging import MERGES, make_merge
from gqasearch.models import FAMILIES, LayerWeights, Parent, family_of, layers_replaced, load_parent, tie_heads
from tests.matrix import sampled, thinned
from tests.merging.layers import copies, turned
from tests.samples import logits_of
from tests.tiny_encoders import ENCODERS, encoder_parent, masked_blocks, save_encoder, tiny_encoder


def attend(x: Tensor, w: LayerWeights) -> Tensor:
    """Attention of every token to all, one head at a time, without the bias of o: (T, D) -> (T, D)."""
    assert w.q_bias is not None and w.k_bias is not None and w.v_bias is not None
    total = torch.zeros_like(x)
    for q in range(w.q.shape[0]):
        head = q // w.queries_per_kv
        query, key, value = (
            x @ part[index].T + bias[index]
            for part, bias, index in ((w.q, w.q_bias, q), (w.k, w.k_bias, head), (w.v, w.v_bias, head))
        )
        total += (query @ key.T * w.head_dim**-0.5).softmax(-1) @ value @ w.o[q].T
    return total


def attention_call(parent: Parent, layer: int) -> tuple[Tensor, Tensor]:
    """What one layer's attention reads and adds for one block, (T, D) each."""
    path, seen = parent.family.attention_path(layer), {}
    projection = parent.model.get_submodule(parent.family.tensor_name(layer, "o.weight").removesuffix(".weight"))
    handles = [
        parent.model.get_submodule(path).register_forward_pre_hook(lambda _m, args: seen.update(x=args[0][0])),
        projection.register_forward_hook(lambda _m, _args, out: seen.update(added=out[0])),
    ]
    logits_of(parent, masked_blocks(blocks=1))
    for handle in handles:
        handle.remove()
    return seen["x"], seen["added"]


@pytest.mark.parametrize("family", sampled(ENCODERS, ["roberta", "distilbert"]))
def test_weights_by_head_compute_what_attention_adds(family: str) -> None:
    parent = encoder_parent(family)
    for layer in range(2):
        x, added = attention_call(parent, layer)
        bias = parent.model.get_parameter(parent.family.tensor_name(layer, "o.bias"))
        torch.testing.assert_close(attend(x, parent.layer(layer)) + bias, added, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", sampled(ENCODERS, ["roberta", "distilbert"]))
def test_the_order_of_heads_does_not_matter(family: str) -> None:
    parent, blocks = encoder_parent(family), masked_blocks(padded=True)
    before, order = logits_of(parent, blocks)[blocks.mask], [1, 2, 5, 3, 4, 0]
    names = ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias")
    layers = {
        index: replace(parent.layer(index), **{name: getattr(parent.layer(index), name)[order] for name in names})
        for index in range(2)
    }
    with layers_replaced(parent, layers):
        assert torch.allclose(logits_of(parent, blocks)[blocks.mask], before, atol=2e-5)
    with layers_replaced(parent, {0: replace(parent.layer(0), k=parent.layer(0).k[order])}):
        assert not torch.allclose(logits_of(parent, blocks)[blocks.mask], before, atol=1e-2)
    assert torch.equal(logits_of(parent, blocks)[blocks.mask], before)


@pytest.mark.parametrize(("name", "family"), thinned(sorted(MERGES), ["bert", "distilbert"], always=["optimal"]))
def test_singletons_and_copies_are_left_as_they_are(name: str, family: str, tmp_path: Path) -> None:
    parent, blocks = encoder_parent(family), masked_blocks(padded=True)
    same = copies(parent.layer(0))
    # What can be undone in W_q and W_o is undone by merges that align: heads of one layer, each turned its own way.
    source = turned(same) if name in ("aligned", "optimal") else same
    with layers_replaced(parent, {0: source}):
        before = logits_of(parent, blocks)[blocks.mask]
        statistics = next(collect(parent, blocks, tmp_path))
        for labels in (tuple(range(6)), (0, 0, 1, 0, 1, 1), (0,) * 6):
            grouping = LayerGrouping.from_labels(labels)
            merged = make_merge(name).for_layer(source, statistics).merge(grouping)
            with layers_replaced(parent, {0: tie_heads(merged, grouping, 1)}):
                assert torch.allclose(logits_of(parent, blocks)[blocks.mask], before, atol=2e-4)
            if len(set(labels)) == 6:
                assert torch.equal(merged.k, source.k) and torch.equal(merged.o, source.o)


@pytest.mark.parametrize("family", sampled(ENCODERS, ["roberta", "distilbert"]))
def test_the_optimal_merge_errs_least(family: str, tmp_path: Path) -> None:
    parent = encoder_parent(family)
    for index, statistics in enumerate(collect(parent, masked_blocks(blocks=20, padded=True), tmp_path)):
        bound = {name: make_merge(name).for_layer(parent.layer(index), statistics) for name in ("mean", "optimal")}
        groups = [heads for size in (2, 3, 6) for heads in combinations(range(6), size)]
        errors = {name: merge.group_errors(groups) for name, merge in bound.items()}
        assert all(best < mean for best, mean in zip(errors["optimal"], errors["mean"], strict=True))
        measured = [bound["optimal"].measured_error(heads) for heads in groups]
        assert measured == pytest.approx(errors["optimal"], rel=1e-4)  # no RoPE: the closed form is exact


def test_no_encoder_turns_its_keys() -> None:
    """Distances are counted in both directions, which turns of one sign would not know."""
    encoders = [family for family in FAMILIES if family.objective == "masked"]
    assert {family.name for family in encoders} == set(ENCODERS)
    assert all(encoder_parent(family.name).geometry.rotary_dim == 0 for family in encoders)


@pytest.mark.parametrize("family", [*ENCODERS, "xlm-roberta"])
def test_a_folder_reads_like_the_model_in_memory(family: str, tmp_path: Path) -> None:
    model = tiny_encoder(family)
    parent = load_parent(str(save_encoder(model, tmp_path / "source")))
    assert parent.geometry == Parent.from_model(model).geometry
    blocks = masked_blocks(padded=True)
    assert torch.equal(logits_of(parent, blocks), logits_of(Parent.from_model(model), blocks))


@pytest.mark.parametrize(
    ("architecture", "fields", "message"),
    [
        ("BertForMaskedLM", {"is_decoder": True}, r"is a decoder \(is_decoder\)"),
        ("RobertaForMaskedLM", {"add_cross_attention": True}, r"is a decoder \(add_cross_attention\)"),
        ("BertForMaskedLM", {"position_embedding_type": "relative_key"}, "position_embedding_type relative_key"),
        ("BertModel", {"is_decoder": True}, r"is a decoder \(is_decoder\)"),
        ("ElectraForPreTraining", {}, "a discriminator predicts no tokens"),
    ],
)
def test_variants_that_cannot_be_grouped_are_refused(architecture: str, fields: dict[str, Any], message: str) -> None:
    config = {"hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 2} | fields
    config |= {"architectures": [architecture]}
    with pytest.raises(UserError, match=message):
        family_of(config).geometry(config)


def test_positions_of_roberta_begin_after_the_padding_token() -> None:
    roberta, bert = (family_of({"architectures": [f"{name}ForMaskedLM"]}) for name in ("Roberta", "Bert"))
    assert roberta.context_length({"max_position_embeddings": 514, "pad_token_id": 1}) == 512
    assert roberta.context_length({"max_position_embeddings": 514}) == 512
    assert bert.context_length({"max_position_embeddings": 512, "pad_token_id": 0}) == 512
    assert bert.context_length({}) is None

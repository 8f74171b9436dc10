"""Sentence embeddings of converted encoders, against transformers' own hidden states; and text that is partly plain."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gqasearch.calibration import NO_TARGET, make_blocks
from gqasearch.embedded import Document
from gqasearch.evaluation import ParentLayers, embed, embedding_cosines, model_runner
from gqasearch.grouping import LayerGrouping
from gqasearch.models import LayerWeights, tie_heads
from tests.samples import random_text
from tests.tiny_encoders import ENCODERS, encoder_parent, encoder_tokenizer, masked_blocks

HALF = LayerGrouping.neighbours(6, 3)


@pytest.mark.parametrize("family", ENCODERS)
def test_they_are_the_mean_of_the_last_hidden_states(family: str) -> None:
    parent, blocks = encoder_parent(family), masked_blocks(padded=True)
    with torch.no_grad():
        mask = blocks.mask.long()
        hidden = parent.model(input_ids=blocks.text, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    wanted = torch.stack([states[kept].mean(0) for states, kept in zip(hidden, blocks.mask, strict=True)])
    found = embed(ParentLayers(parent), blocks.text, blocks.mask)
    assert torch.allclose(found, wanted / wanted.norm(dim=1, keepdim=True), atol=1e-6)


def test_cosines_of_plain_and_masked_text() -> None:
    parent, blocks = encoder_parent("bert"), masked_blocks(padded=True)

    def shared(index: int) -> LayerWeights:
        own = parent.layer(index)
        assert own.k_bias is not None and own.v_bias is not None
        first = replace(own, k=own.k[::2], v=own.v[::2], k_bias=own.k_bias[::2], v_bias=own.v_bias[::2])
        return tie_heads(first, HALF, 1)

    models = {
        "itself": ParentLayers(parent),
        "halved": ParentLayers(parent, (0, 1), shared),
        "unknown": model_runner(parent.model),
    }
    found = embedding_cosines(models["itself"], models, blocks, batch_blocks=4)
    assert found.keys() == {"itself", "halved"}
    assert found["itself"] == pytest.approx({"plain": 1.0, "masked": 1.0}, abs=1e-6)
    for kind, ids in (("plain", blocks.text), ("masked", blocks.ids)):
        one, other = (embed(models[name], ids, blocks.mask) for name in ("itself", "halved"))
        assert found["halved"][kind] == pytest.approx(float((one * other).sum(1).mean()), abs=1e-6)
        assert found["halved"][kind] < 0.999
    assert found["halved"]["plain"] != found["halved"]["masked"]


def test_a_share_of_the_blocks_is_masked() -> None:
    documents = [Document("a", random_text(9000)), Document("b", random_text(4000, seed=1))]

    def cut(share: float) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = make_blocks(documents, encoder_tokenizer(), 32, 10_000, "test", "masked", masked_blocks=share)
        assert blocks.labels is not None
        return blocks.ids, (blocks.labels != NO_TARGET).any(1)

    whole, all_masked = cut(1.0)
    mixed, some = cut(0.5)
    plain, none = cut(0.0)
    assert bool(all_masked.all()) and not bool(none.any())
    assert 0.4 < float(some.float().mean()) < 0.6
    assert torch.equal(mixed, torch.where(some[:, None], whole, plain))
    few, fewer = cut(0.25)
    assert bool((some | ~fewer).all()) and 0 < int(fewer.sum()) < int(some.sum())  # those of a smaller share stay
    assert torch.equal(few, torch.where(fewer[:, None], whole, plain))

"""A forward pass over a whole text, held against decoding it token by token from a cache that rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from gqasearch.evaluation import ParentLayers, RoundedLayers, evaluate_quality
from gqasearch.models import Parent, RoundedCache, decoder_layer, enter, hidden_states_of, rounded_arguments
from gqasearch.rounding import CacheFormat, KVFormat, Role, make_format, parse_format
from tests.matrix import sampled
from tests.samples import random_blocks
from tests.tiny_models import ALL_FAMILY_NAMES, MORE_FAMILY_NAMES, VOCAB_SIZE, tiny_parent

TOKENS = 23
SMALL = {"group": 4, "residual": 8}


class RoundingCache(DynamicCache):
    """Keeps what it is given, and gives what an engine would read at this step."""

    def __init__(self, kv: KVFormat) -> None:
        super().__init__()
        self.kv = kv

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        while len(self.layers) <= layer_idx:
            self.layers.append(DynamicLayer())
        kept = self.layers[layer_idx].update(keys, values)
        return self.read(self.kv.k, kept[0]), self.read(self.kv.v, kept[1])

    def read(self, part: CacheFormat, kept: Tensor) -> Tensor:
        count = kept.shape[-2]
        if part.name.startswith("kivi"):
            step = part.residual  # type: ignore[attr-defined]
            old = (count - 1) // step * step if part.role == "k" else max(0, count - 1 - step)
        else:
            old = count
        return torch.cat([part.round(kept)[..., :old, :], kept[..., old:, :]], -2)


def kivi(role: Role) -> CacheFormat:
    return make_format("kivi4", role, SMALL)


FORMATS = {
    "integers": parse_format("k8v4"),
    "fp8": parse_format("fp8"),
    "windows": KVFormat("kivi", kivi("k"), kivi("v")),
    "window of values": KVFormat("mixed", make_format("int4", "k"), kivi("v")),
}
CASES = [
    *((name, "windows") for name in (*ALL_FAMILY_NAMES, *MORE_FAMILY_NAMES)),
    *(("llama", name) for name in FORMATS if name != "windows"),
]
ALWAYS = [
    ("llama", "integers"),
    ("falcon", "windows"),
    ("gemma2", "windows"),
    ("gpt2", "windows"),
    ("gpt_neox", "windows"),
]


def some_ids() -> Tensor:
    return torch.randint(4, VOCAB_SIZE, (2, TOKENS), generator=torch.Generator().manual_seed(0))


def decoded(parent: Parent, kv: KVFormat, ids: Tensor) -> Tensor:
    cache = RoundingCache(kv)
    with torch.no_grad():
        steps = [
            parent.model(input_ids=token[:, None], past_key_values=cache, use_cache=True).logits for token in ids.T
        ]
    return torch.cat(steps, 1)


@pytest.mark.parametrize(("name", "form"), sampled(CASES, ALWAYS))
def test_it_is_what_decoding_reads(name: str, form: str) -> None:
    parent = tiny_parent(name)
    parent.model.double()  # or a last bit decides which way a number is rounded
    ids, kv = some_ids(), FORMATS[form]
    stack = ParentLayers(parent)
    found = RoundedLayers(stack, kv)(ids, torch.ones_like(ids, dtype=torch.bool))
    torch.testing.assert_close(found, decoded(parent, kv, ids).float(), rtol=1e-4, atol=1e-4)
    assert float((found - stack(ids, torch.ones_like(ids, dtype=torch.bool))).abs().max()) > 1e-3


def test_padding_is_not_seen() -> None:
    """A mask that is given, and one that attention makes itself."""
    parent, kv = tiny_parent("llama"), FORMATS["windows"]
    parent.model.double()
    ids = some_ids()
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 15:] = False
    run = RoundedLayers(ParentLayers(parent), kv)
    whole, padded = run(ids, torch.ones_like(mask)), run(ids, mask)
    torch.testing.assert_close(padded[mask], whole[mask], rtol=1e-5, atol=1e-5)


def test_shared_heads_are_rounded_once() -> None:
    """A parent with tied heads computes what its grouped checkpoint does: every copy of a head is rounded alike."""
    grouped = tiny_parent("llama", num_key_value_heads=3)
    parent, kv = tiny_parent("llama"), parse_format("4")
    stored = grouped.model.state_dict()
    for name, tensor in parent.model.state_dict().items():
        apart = "k_proj" in name or "v_proj" in name
        tensor.copy_(
            stored[name].unflatten(0, (3, -1)).repeat_interleave(2, 0).flatten(0, 1) if apart else stored[name]
        )
    ids = some_ids()
    mask = torch.ones_like(ids, dtype=torch.bool)
    own, theirs = (RoundedLayers(ParentLayers(one), kv)(ids, mask) for one in (parent, grouped))
    torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-4)


def test_evaluation_goes_up_beside_the_unrounded_parent() -> None:
    parent = tiny_parent("llama")
    blocks = random_blocks(parent.config["vocab_size"], padded=True)
    stack = ParentLayers(parent)
    formats = {name: parse_format(name) for name in ("8", "4", "2")}
    own, found = evaluate_quality(stack, {name: RoundedLayers(stack, kv) for name, kv in formats.items()}, blocks)
    assert own.kl == 0
    assert 0 < found["8"].kl < found["4"].kl < found["2"].kl
    alone = evaluate_quality(stack, {"4": RoundedLayers(stack, formats["4"])}, blocks)[1]["4"]
    assert alone.kl == pytest.approx(found["4"].kl, rel=1e-6)


class FrozenCache:
    """Adds to the keys and values of any call what rounding added in the first."""

    def __init__(self, cache: RoundedCache) -> None:
        self.cache, self.added = cache, list[Tensor]()

    def update(self, keys: Tensor, values: Tensor, *_args: Any) -> tuple[Tensor, Tensor]:
        if not self.added:
            read = self.cache.update(keys, values)
            self.added = [one - spread(x, one) for one, x in zip(read, (keys, values), strict=True)]
        return spread(keys, self.added[0]) + self.added[0], spread(values, self.added[1]) + self.added[1]


def spread(x: Tensor, like: Tensor) -> Tensor:
    return x.repeat(1, 1, like.shape[-2] // x.shape[-2], 1)


@pytest.mark.parametrize("form", ["integers", "windows"])
def test_gradients_pass_straight_through(form: str) -> None:
    """They are the slopes of a layer whose cache adds constants."""
    parent, ids = tiny_parent("llama"), some_ids()
    parent.model.double()
    entered = enter(parent, ids, torch.ones_like(ids, dtype=torch.bool))
    layer, hidden = decoder_layer(parent, 0), entered.hidden.detach()
    weights = [parent.model.get_parameter(f"model.layers.0.self_attn.{name}_proj.weight") for name in "kv"]
    (_, named), cache = rounded_arguments(parent, layer, entered.arguments[0], hidden, FORMATS[form])

    def loss() -> Tensor:
        return hidden_states_of(layer(hidden, **named)).square().sum()

    gradients = torch.autograd.grad(loss(), weights)
    assert cache.filled
    named["past_key_values"] = FrozenCache(cache)
    loss()
    for weight, gradient in zip(weights, gradients, strict=True):
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
        with torch.no_grad():
            above, below = (loss_at(weight, step * direction, loss) for step in (1e-3, -1e-3))  # norms are float32
        assert float((gradient * direction).sum()) == pytest.approx((above - below) / 2e-3, rel=1e-3)


def loss_at(weight: Tensor, step: Tensor, loss: Callable[[], Tensor]) -> float:
    weight += step
    found = float(loss())
    weight -= step
    return found

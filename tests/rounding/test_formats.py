from __future__ import annotations

import itertools
import math

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from scipy.linalg import hadamard
from torch import Tensor

from gqasearch.errors import UserError
from gqasearch.rounding import FORMATS, Role, make_format, parse_format, parse_formats
from gqasearch.rounding.llamacpp.iq4_nl import LEVELS

LLAMACPP = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
ROLES: tuple[Role, ...] = ("k", "v")


def some_heads(*shape: int) -> Tensor:
    """Heads whose tokens and channels differ in size, one token of zeros and one of equal numbers."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randn(*shape[:-1], 1, generator=generator) + torch.randn(shape[-1], generator=generator)
    x = torch.randn(*shape, generator=generator) * sizes.exp()
    x[..., 1, :], x[..., 2, :] = 0, 0.3
    return x


@pytest.mark.parametrize("name", [name for name in LLAMACPP if name != "iq4_nl"])
def test_blocks_are_those_of_the_gguf_package(name: str) -> None:
    x = some_heads(2, 3, 40, 96)
    kind = gguf.GGMLQuantizationType[name.upper()]
    stored = quantize(x.numpy(), kind)
    for role in ROLES:  # 96 is no multiple of 64: nothing is rotated
        own = make_format(name, role)
        assert torch.equal(own.round(x), torch.from_numpy(dequantize(stored, kind)))
        assert own.bytes_per_head(96) == stored.shape[-1]


def test_iq4_nl_fits_its_scale() -> None:
    """Its quantiser is not in that package: here it is again, block by block."""
    x = some_heads(2, 3, 40, 32)
    y = make_format("iq4_nl", "k").round(x)
    levels = np.array(LEVELS)
    assert gguf.quants.IQ4_NL.kvalues == LEVELS
    for before, after in zip(x.reshape(-1, 32).numpy(), y.reshape(-1, 32).numpy(), strict=True):
        if not before.any():
            assert not after.any()
            continue
        place = np.abs(before).argmax()
        rough = before[place] / -127
        chosen = levels[np.abs(before[:, None] / rough - levels).argmin(1)]
        scale = (before**3 * chosen).sum() / (before**2 * chosen**2).sum()
        np.testing.assert_allclose(after, chosen * np.float16(scale).astype(np.float32), rtol=1.1e-3)


@pytest.mark.parametrize(("head_dim", "keys", "values"), [(64, 64, 64), (128, 128, 64), (192, 64, 64), (256, 256, 64)])
def test_llamacpp_rotates(head_dim: int, keys: int, values: int) -> None:
    x = some_heads(2, 20, head_dim)
    for role, size in (("k", keys), ("v", values)):
        turn = torch.from_numpy(hadamard(size) / math.sqrt(size)).float()
        turned = (x.unflatten(-1, (-1, size)) @ turn).flatten(-2)
        plain = make_format("q4_0_unrotated", role).round(turned)
        expected = (plain.unflatten(-1, (-1, size)) @ turn).flatten(-2)
        torch.testing.assert_close(make_format("q4_0", role).round(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "role"), list(itertools.product(FORMATS, ROLES)))
def test_every_format(name: str, role: Role) -> None:
    own = make_format(name, role)
    assert own.name == name
    assert own.reference.startswith("https://")
    x = some_heads(2, 3, 150, 64)
    y = own.round(x)
    assert y.shape == x.shape and bool(y.isfinite().all())
    assert float((y - x).norm() / x.norm()) < 0.75
    assert own.round(x.to(torch.bfloat16)).dtype == torch.bfloat16
    needs = x.clone().requires_grad_()
    passed = own.straight_through(needs)
    assert torch.equal(passed, y)
    passed.backward(torch.ones_like(x))
    assert needs.grad is not None and torch.equal(needs.grad, torch.ones_like(x))


@pytest.mark.parametrize(("bits", "group"), [(8, 64), (4, 64), (3, 64), (2, 64)])
def test_integers_per_token(bits: int, group: int) -> None:
    x = some_heads(3, 20, group)
    y = make_format(f"int{bits}", "v").round(x)
    low, high = x.half().float().amin(-1), x.amax(-1)
    for row, values, bottom, top in zip(x.view(-1, group), y.view(-1, group), low.view(-1), high.view(-1), strict=True):
        assert len(values.unique()) <= 2**bits
        step = float(top - bottom) / (2**bits - 1)
        assert float((row - values).abs().max()) <= 0.5 * step * 1.01 + 2**-10 * float(row.abs().max())


def test_kivi_groups_keys_by_channel_and_values_by_token() -> None:
    x = some_heads(2, 70, 64)
    keys, values = (make_format("kivi2", role).round(x) for role in ROLES)
    for head, first, channel in itertools.product(range(2), (0, 32), (0, 17, 63)):
        assert len(keys[head, first : first + 32, channel].unique()) <= 4
    for head, token, first in itertools.product(range(2), (0, 3, 69), (0, 32)):
        assert len(values[head, token, first : first + 32].unique()) <= 4
    # A rest is a group of its own, and no group is touched by numbers of another.
    other = x.clone()
    other[:, 64:] += 5
    assert torch.equal(make_format("kivi2", "k").round(other)[:, :64], keys[:, :64])


def test_windows_that_stay_unrounded() -> None:
    small = {"group": 2, "residual": 4}
    keys, values = (make_format("kivi4", role, small) for role in ROLES)
    assert keys.rounded_before(10).tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]  # type: ignore[union-attr]
    assert values.rounded_before(7).tolist() == [0, 0, 0, 0, 0, 1, 2]  # type: ignore[union-attr]
    assert make_format("q8_0", "k").rounded_before(7) is None
    rounded, whole = 32 * (0.5 + 4 / 2), 2 * 32
    assert values.bytes_per_head(32) == rounded
    assert values.bytes_per_head(32, 16) == pytest.approx((12 * rounded + 4 * whole) / 16)


def test_fp8_is_e4m3_that_does_not_overflow() -> None:
    x = torch.tensor([[[1.0, 1.06, 0.3, -700.0]], [[2.0, 4.0, 0.001, 896.0]]])
    assert make_format("fp8", "k").round(x).tolist()[0] == [[1, 1, 0.3125, -448]]
    halved = make_format("fp8", "k", {"scale": 2.0}).round(x)
    assert halved[1, 0, 3] == 896 and halved[0, 0, 3] == -704
    whole, by_head = (make_format(name, "k").round(x) for name in ("fp8_tensor", "fp8_head"))
    assert whole[1, 0, 3] == by_head[1, 0, 3] == 896
    assert by_head[0, 0, 3] == -700 and whole[0, 0, 3] == -704


def test_heads_that_engines_refuse() -> None:
    for size in (16, 48):
        with pytest.raises(UserError, match=f"q8_0 takes heads whose size is a multiple of 32; this model's is {size}"):
            parse_format("q8_0").check(size)
        parse_format("k8v4").check(size)
    with pytest.raises(UserError, match="int8_per_token_head takes heads of size 32 or more; this model's is 16"):
        parse_format("8/int8_per_token_head").check(16)
    with pytest.raises(UserError, match="kivi4 takes"):
        parse_format("kivi4").check(16)
    make_format("kivi4", "k").check(16)  # keys are grouped along tokens


def test_spelling() -> None:
    assert [(kv.name, kv.k.name, kv.v.name) for kv in parse_formats("8, k8v4,q8_0/q4_0,16/4,fp8,8")] == [
        ("8", "int8", "int8"),
        ("k8v4", "int8", "int4"),
        ("q8_0/q4_0", "q8_0", "q4_0"),
        ("16/4", "f16", "int4"),
        ("fp8", "fp8", "fp8"),
    ]
    both = parse_format("q8_0/q4_0")
    assert (both.k.role, both.v.role) == ("k", "v")
    assert both.bytes_per_token(6, 4, 64) == 6 * 68 + 4 * 36
    for given, said in [("q8_1", "did you mean 'q8_0'"), ("5", "Known"), ("a/b/c", "or two"), ("", "or two")]:
        with pytest.raises(UserError, match=said):
            parse_format(given)

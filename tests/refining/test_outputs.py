"""The regression of W_o against least squares done the plain way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import layers_replaced
from gqasearch.refining.ridge import OutputRegression, fit_outputs
from tests.matrix import SOURCES
from tests.refining.cases import THIRDS, blocks_of, converter_of, refinement, site_error, site_of
from tests.samples import logits_of
from tests.tiny_models import tiny_parent


@pytest.mark.parametrize(("family", "kv_heads"), SOURCES)
def test_the_first_layer_is_the_least_squares_fit(family: str, kv_heads: int, tmp_path: Path) -> None:
    """One grouped layer: regress the parent's attention output without its bias on what the merged heads give."""
    parent = tiny_parent(family, kv_heads=kv_heads)
    blocks = blocks_of(parent, blocks=12, padded=True)
    converter = converter_of(parent, tmp_path)
    grouping = Grouping((LayerGrouping.neighbours(kv_heads, 2), LayerGrouping.singletons(kv_heads)))
    found = converter.refine(grouping, blocks, refinement("outputs", ridge=1e-9), batch_blocks=5)
    assert set(found) == {0}
    seen: list[torch.Tensor] = []
    name = parent.family.tensor_name(0, "o.weight").removesuffix(".weight")
    handle = parent.model.get_submodule(name).register_forward_hook(lambda _m, args, out: seen.extend((args[0], out)))
    logits_of(parent, blocks)
    with layers_replaced(parent, converter.tied_layers(grouping)):
        logits_of(parent, blocks)
    handle.remove()
    bias = dict(parent.model.named_parameters()).get(f"{name}.bias", torch.zeros(())).detach()
    wanted, z = (seen[1] - bias)[blocks.mask].double(), seen[2][blocks.mask].double()
    plain = torch.linalg.lstsq(z, wanted).solution.T
    refitted = found[0].o.transpose(0, 1).flatten(1).double()
    residual = [float((wanted - z @ w.T).square().sum()) for w in (plain, refitted)]
    assert residual[1] == pytest.approx(residual[0], rel=1e-3)
    start = converter.merged_layer(grouping, 0).o.transpose(0, 1).flatten(1).double()
    assert residual[1] < 0.9 * float((wanted - z @ start.T).square().sum())


def test_only_the_outputs_change(tmp_path: Path) -> None:
    parent = tiny_parent("qwen2")
    converter = converter_of(parent, tmp_path)
    for index, layer in converter.refine(THIRDS, blocks_of(parent), refinement("outputs")).items():
        merged = converter.merged_layer(THIRDS, index)
        for name in ("q", "k", "v", "q_bias", "k_bias", "v_bias"):
            assert torch.equal(getattr(layer, name), getattr(merged, name)), name
        assert not torch.equal(layer.o, merged.o)


def test_a_strong_ridge_keeps_what_the_merge_made(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    converter = converter_of(parent, tmp_path)
    for index, layer in converter.refine(THIRDS, blocks_of(parent), refinement("outputs", ridge=1e9)).items():
        torch.testing.assert_close(layer.o, converter.merged_layer(THIRDS, index).o, atol=1e-5, rtol=1e-5)


def test_a_regression_may_read_its_calls_in_parts(tmp_path: Path) -> None:
    """A part and then the rest is all of them; a part alone is the fit on that part."""
    parent = tiny_parent("opt")
    merged = converter_of(parent, tmp_path).merged_layer(THIRDS, 0)
    site = site_of(parent, THIRDS, blocks_of(parent, padded=True))
    regression, read = OutputRegression(site, merged), []
    with torch.no_grad():
        for part in ([0, 2, 4], [1, 3]):
            regression.read(part)
            read += [site.calls[index] for index in part]
            found, error = regression.fit(1e-3)
            wanted, wanted_error = fit_outputs(replace(site, calls=read), merged, 1e-3)
            assert torch.equal(found.o, wanted.o) and error == wanted_error
            assert error == pytest.approx(site_error(replace(site, calls=read), found), rel=1e-4)


def test_a_part_is_spread_over_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter, or four tokens for every input of W_o: 48 of them. All of it in narrow layers."""
    parent = tiny_parent("llama")
    site = site_of(parent, THIRDS, blocks_of(parent, blocks=80))
    tokens = int(site.calls[0].mask.sum())
    assert site.spread_part() == (list(range(len(site.calls))), [])
    monkeypatch.setattr("gqasearch.refining.layer_site.LEAST_WIDTH", 48)
    for calls in (1, 5, 20):
        part, rest = replace(site, calls=list(site.calls)[:calls]).spread_part()
        assert sorted(part + rest) == list(range(calls))
        assert len(part) == min(calls, max(-(-calls // 4), -(-4 * 48 // tokens)))
        assert max(b - a for a, b in zip(part, [*part[1:], calls], strict=True)) <= -(-calls // len(part))


def test_a_direction_that_z_does_not_have_does_no_harm(tmp_path: Path) -> None:
    """Two heads that give the same, and next to no ridge: the Gram matrix is singular."""
    parent = tiny_parent("llama")
    merged = converter_of(parent, tmp_path).merged_layer(THIRDS, 0)
    twins = replace(merged, q=merged.q[torch.tensor([0, 0, 0, 3, 4, 5])])
    site = site_of(parent, THIRDS, blocks_of(parent))
    with torch.no_grad():
        found, error = fit_outputs(site, twins, 1e-13, validate=False)
    assert torch.isfinite(found.o).all() and error < site_error(site, twins)

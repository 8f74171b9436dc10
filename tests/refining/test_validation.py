"""On little text a fit is checked on calls that it does not see: it must not be to that text alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gqasearch.models import LayerWeights
from gqasearch.refining import Descent, Joint, NoRefinement, Outputs
from gqasearch.refining.descent import best_between
from gqasearch.refining.layer_site import AMPLE_PER_INPUT, AttentionCall, LayerSite
from gqasearch.refining.ridge import STRONGER, OutputRegression, _sketch_of, fit_outputs
from tests.refining.cases import THIRDS, blocks_of, converter_of, site_error, site_of
from tests.tiny_models import tiny_parent

INPUTS = 6 * 8  # of W_o


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def noisy(
    tmp_path: Path, blocks: int, noise: float, signal: float = 0.0
) -> tuple[LayerWeights, LayerSite, LayerSite, LayerWeights]:
    """Merged weights, a site to fit, one of other text, and the weights that are right.

    What is wanted is what weights give whose W_o differs from the merged one's by ``signal`` of itself, and ``noise``
    times as much that has nothing to do with what a layer reads.
    """
    parent = tiny_parent("llama")
    merged = converter_of(parent, tmp_path).merged_layer(THIRDS, 0)
    generator = torch.Generator().manual_seed(1)
    right = replace(merged, o=merged.o * (1 + signal * torch.randn(merged.o.shape, generator=generator)))
    site = site_of(parent, THIRDS, blocks_of(parent, blocks=2 * blocks))

    def wanting(call: AttentionCall) -> AttentionCall:
        given = site.attend(right, call)
        return call.with_wanted(given + noise * given.std() * torch.randn(given.shape, generator=generator))

    calls = [wanting(call) for call in site.calls]
    half = len(calls) // 2
    return merged, replace(site, calls=calls[:half]), replace(site, calls=calls[half:]), right


def test_noise_is_not_fitted(tmp_path: Path) -> None:
    """Nothing but noise to fit: the plain ridge makes other text worse, the validated one leaves the layer alone."""
    merged, site, other, _ = noisy(tmp_path, blocks=16, noise=2.0)
    assert site.is_scarce
    before = site_error(other, merged)
    plain, error = fit_outputs(site, merged, 1e-3, validate=False)
    assert error < site_error(site, merged) and site_error(other, plain) > 1.05 * before
    found, error = fit_outputs(site, merged, 1e-3)
    assert torch.equal(found.o, merged.o) and error == pytest.approx(site_error(site, merged), rel=1e-4)


def test_the_ridge_is_as_strong_as_the_noise_asks_for(tmp_path: Path) -> None:
    """A little to gain under noise: a stronger ridge than was asked for does better on other text, and is found."""
    merged, site, other, _ = noisy(tmp_path, blocks=16, noise=1.0, signal=0.5)
    found, _ = fit_outputs(site, merged, 1e-3)
    plain = [fit_outputs(site, merged, 1e-3 * factor, validate=False)[0] for factor in STRONGER]
    errors = [site_error(other, one) for one in plain]
    assert min(errors[1:]) < errors[0]
    assert site_error(other, found) < 0.5 * (errors[0] + min(errors)) and site_error(other, found) < errors[0]
    assert any(torch.equal(found.o, one.o) for one in plain[1:])


def test_without_noise_the_ridge_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    merged, site, _, right = noisy(tmp_path, blocks=24, noise=0.0, signal=0.5)
    found, _ = fit_outputs(site, merged, 1e-6)
    assert torch.equal(found.o, fit_outputs(site, merged, 1e-6, validate=False)[0].o)
    assert site_error(site, found) < 1e-4 * site_error(site, merged)
    torch.testing.assert_close(found.o, right.o, atol=0.02, rtol=0.02)


def test_ample_text_is_used_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged, site, _, _ = noisy(tmp_path, blocks=16, noise=1.0)
    tokens = sum(int(call.mask.sum()) for call in site.calls)
    assert tokens < AMPLE_PER_INPUT * INPUTS
    held_out = site.held_out()
    assert held_out and len(held_out) == len(site.calls) // 4
    monkeypatch.setattr("gqasearch.refining.layer_site.AMPLE_PER_INPUT", tokens // INPUTS)
    ample = replace(site)
    assert not ample.is_scarce and ample.held_out() == []
    found, plain = (fit_outputs(ample, merged, 1e-3, validate=validate) for validate in (True, False))
    assert torch.equal(found[0].o, plain[0].o) and found[1] == plain[1]


def test_wide_layers_are_compared_by_random_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their errors are those of all rows on average, so much the same ridge is chosen."""
    assert torch.equal(_sketch_of(48), torch.eye(48))
    sums = _sketch_of(4096)
    assert sums.shape == (256, 4096)
    rows = torch.randn(4096, 3, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close((sums @ rows).square().sum(0), rows.square().sum(0), rtol=0.3, atol=0)
    merged, site, _, _ = noisy(tmp_path, blocks=16, noise=2.0)
    monkeypatch.setattr("gqasearch.refining.ridge.SKETCHED", 24)
    regression = OutputRegression(site, merged)
    assert regression._sketch.shape == (24, 48)
    regression.read(range(len(site.calls)))
    assert torch.equal(regression.fit(1e-3)[0].o, merged.o)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_steps_go_as_far_as_held_out_calls_say(share: float, tmp_path: Path) -> None:
    merged, site, _, right = noisy(tmp_path, blocks=8, noise=0.0, signal=0.5)
    end = replace(merged, o=merged.o + (right.o - merged.o) / share) if share else right
    wanted = right if share else merged
    calls = [call.with_wanted(site.attend(wanted, call)) for call in site.calls]
    found = best_between(replace(site, calls=calls), merged, end, range(len(calls)))
    torch.testing.assert_close(found.o, wanted.o)


def test_descent_on_noise_leaves_other_text_as_it_was(tmp_path: Path) -> None:
    merged, site, other, _ = noisy(tmp_path, blocks=16, noise=2.0)
    before = site_error(other, merged)
    plain = Descent(steps=40, validate=False).refine_layer(site, merged, lambda: None)
    found = Descent(steps=40).refine_layer(site, merged, lambda: None)
    assert site_error(other, plain) > 1.1 * before
    assert site_error(other, found) < 1.02 * before


def test_candidates_are_refitted_as_the_result_will_be() -> None:
    assert Outputs.quick(Descent()) == Outputs() == Outputs.quick(NoRefinement())
    assert Outputs.quick(Descent(validate=False)) == Outputs.quick(Joint(validate=False)) == Outputs(validate=False)

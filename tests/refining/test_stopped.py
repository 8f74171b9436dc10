"""A refinement that was stopped goes on at its layer, whether hidden states lay in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from gqasearch.calibration import Ascent
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import LayerWeights
from gqasearch.refining import LayerSite, Outputs
from tests.refining.cases import blocks_of, converter_of
from tests.tiny_models import tiny_parent

SINGLE, PAIRS = LayerGrouping.singletons(6), LayerGrouping.neighbours(6, 3)
# Layer 0 shares nothing: the two streams are one up to layer 1.
GROUPING = Grouping((SINGLE, PAIRS, SINGLE, PAIRS, PAIRS))


@dataclass(frozen=True)
class Stopping(Outputs):
    """Stops before this layer; counts those that it refines."""

    before: int = 99

    def refine_layer(self, site: LayerSite, merged: LayerWeights, step: Callable[[], None]) -> LayerWeights:
        if site.index >= self.before:
            raise KeyboardInterrupt
        DONE.append(site.index)
        return super().refine_layer(site, merged, step)


DONE: list[int] = []


@pytest.mark.parametrize("room", [0, 2**27])
@pytest.mark.parametrize("before", [1, 3, 4])
def test_goes_on_at_its_layer(before: int, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gqasearch.refining.streams.Ascent", partial(Ascent, room=room))
    parent = tiny_parent("llama", layers=5)
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    whole = converter.refine(GROUPING, blocks, Stopping())
    with pytest.raises(KeyboardInterrupt):
        converter.refine(GROUPING, blocks, Stopping(before=before), folder=tmp_path / "kept")
    DONE.clear()
    steps: list[tuple[int, int]] = []
    found = converter.refine(
        GROUPING, blocks, Stopping(), folder=tmp_path / "kept", progress=lambda done, total: steps.append((done, total))
    )
    assert [index for index in (1, 3, 4) if index >= before] == DONE
    assert steps[-1][0] == steps[-1][1]
    assert set(found) == set(whole) == {1, 3, 4}
    for index, layer in found.items():
        for one, other in zip(astuple(layer), astuple(whole[index]), strict=True):
            assert one == other if not isinstance(one, torch.Tensor) else torch.equal(one, other)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["layers"]

"""Statistics are computed once, and a folder that is there is whole."""

from __future__ import annotations

import os
from dataclasses import astuple
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from gqasearch.calibration import load_or_collect, statistics_key
from gqasearch.calibration.ascent import Ascent
from gqasearch.files import aside_of
from gqasearch.models import load_parent, output_projection
from tests.samples import random_blocks
from tests.tiny_models import save_checkpoint, tiny_model, tiny_parent


def test_second_time_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tiny_parent("llama")
    blocks = random_blocks(parent.config["vocab_size"])
    first = load_or_collect(parent, blocks, root=tmp_path)
    monkeypatch.setattr(parent.model, "forward", lambda *a, **k: pytest.fail("the model ran again"))
    second = load_or_collect(parent, blocks, root=tmp_path)
    assert torch.equal(first.layer(1).second_moment, second.layer(1).second_moment)
    assert first.tokens == blocks.tokens and first.fingerprint == second.fingerprint


def test_key_depends_on_model_text_and_settings() -> None:
    parent, other = tiny_parent("llama"), tiny_parent("llama", seed=1)
    blocks, text = random_blocks(parent.config["vocab_size"]), random_blocks(parent.config["vocab_size"], seed=1)
    keys = {statistics_key(p, b, s) for p in (parent, other) for b in (blocks, text) for s in (10, 20)}
    assert len(keys) == 8


@pytest.mark.parametrize("change", [{"rope_theta": 500.0}, {"rms_norm_eps": 0.1}, {"hidden_act": "gelu"}])
def test_key_depends_on_what_config_json_makes_of_the_same_weights(change: dict[str, Any]) -> None:
    parent, other = tiny_parent("llama"), tiny_parent("llama", **change)
    assert parent.fingerprint == other.fingerprint
    blocks = random_blocks(parent.config["vocab_size"])
    assert statistics_key(parent, blocks, 10) != statistics_key(other, blocks, 10)


def test_key_does_not_depend_on_where_the_model_lies(tmp_path: Path) -> None:
    folders = [save_checkpoint(tiny_model("llama"), tmp_path / name) for name in ("one", "other")]
    blocks = random_blocks(tiny_model("llama").config.vocab_size)
    assert len({statistics_key(load_parent(str(folder)), blocks, 10) for folder in folders}) == 1


@pytest.mark.parametrize("room", [0, 2**28])
@pytest.mark.parametrize("stopped_in", [0, 1, 2])
def test_a_pass_that_was_stopped_goes_on_at_its_layer(
    stopped_in: int, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("gqasearch.calibration.collect"), "Ascent", partial(Ascent, room=room))
    parent = tiny_parent("llama", layers=3)
    blocks = random_blocks(parent.config["vocab_size"])
    whole = load_or_collect(parent, blocks, root=tmp_path / "whole", batch_blocks=2)

    def stop(*_args: object, **_kwargs: object) -> object:
        raise KeyboardInterrupt

    handle = output_projection(parent, stopped_in).register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        load_or_collect(parent, blocks, root=tmp_path, batch_blocks=2)
    handle.remove()
    left = list((tmp_path / "statistics").iterdir())
    assert len(left) == (1 if stopped_in else 0)
    if left:  # as a process that is gone
        left[0].rename(left[0].with_name(left[0].name.replace(f"-{os.getpid()}", "-4194305")))
    calls: list[int] = []
    handle = output_projection(parent, 0).register_forward_hook(lambda *_: calls.append(1))
    found = load_or_collect(parent, blocks, root=tmp_path, batch_blocks=2)
    handle.remove()
    assert bool(calls) == (stopped_in == 0 or room > 0)  # what lay on disk is not computed again
    for index in range(3):
        for one, other in zip(astuple(found.layer(index)), astuple(whole.layer(index)), strict=True):
            assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    assert [path.name for path in found.folder.glob("*hidden*")] == []


def test_what_a_killed_pass_left_is_removed_by_the_next(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    folder = tmp_path / "statistics"
    folder.mkdir()
    (folder / aside_of(folder / "other").name.replace(f"-{os.getpid()}", "-4194305")).mkdir()  # above the largest id
    (folder / ".partial-from-a-version-before").mkdir()
    os.utime(folder / ".partial-from-a-version-before", (0, 0))
    load_or_collect(parent, random_blocks(parent.config["vocab_size"]), root=tmp_path)
    (kept,) = folder.iterdir()
    assert not kept.name.startswith(".")


def test_large_layers_are_read_again_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tiny_parent("llama")
    found = load_or_collect(parent, random_blocks(parent.config["vocab_size"]), root=tmp_path)
    assert found.layer(0) is found.layer(0)
    monkeypatch.setattr("gqasearch.calibration.cache.SMALL", 1)
    one, other = found.layer(0), found.layer(0)
    assert one is not other and torch.equal(one.second_moment, other.second_moment)

"""A healing run that is killed goes on to the same bits; several processes train one model."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from gqasearch.errors import UserError
from gqasearch.healing.state import HealState, latest_state, save_state
from gqasearch.healing.trainer import arguments
from gqasearch.run.heal import HealFolder
from gqasearch.run.heal.process_group import Ranks
from gqasearch.run.inputs import hold_inputs
from tests import forked
from tests.checkpoints.convert import stored_tensors
from tests.healing.healed import converted, healed, history_of, settings
from tests.matrix import nightly
from tests.tiny_models import edit_config


def command(tmp_path: Path, name: str, *launcher: str, **changes: Any) -> list[str]:
    given = settings(tmp_path, **changes).model_dump(exclude={"model"}, exclude_defaults=True)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in given.items()]
    return [*launcher, "gqasearch", "heal", str(tmp_path / "start"), f"--output-dir={tmp_path / name}", *flags, "-q"]


def wait_for(process: ForkServerProcess, folder: HealFolder, lines: int) -> None:
    """Until the history has so many lines more than at the first look."""
    deadline = time.monotonic() + 120
    before = count(folder)
    while process.is_alive() and time.monotonic() < deadline and count(folder) < before + lines:
        time.sleep(0.002)


def count(folder: HealFolder) -> int:
    return folder.history.read_bytes().count(b"\n") if folder.history.is_file() else 0


def assert_same(one: HealFolder, other: HealFolder) -> None:
    """To the bit, and nothing in either that could run code."""
    assert history_of(one) == history_of(other)
    weights = [(folder.model / "model.safetensors").read_bytes() for folder in (one, other)]
    assert weights[0] == weights[1]
    assert not list(one.path.rglob("*.pt")) and not list(one.path.rglob("*.bin"))


def test_a_stopped_run_does_not_go_on_from_another_checkpoint_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted(tmp_path, "stock-symmetric")

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gqasearch.run.heal.work.load_parent", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            healed(tmp_path)
    edit_config(tmp_path / "start", rms_norm_eps=0.1)
    with pytest.raises(UserError, match="begun with another"):
        healed(tmp_path)


LONG: dict[str, Any] = {"steps": 60, "evaluate_every": 3, "validation_tokens": 100}
LORA: dict[str, Any] = {"train": "lora"}
PROGRESSIVE: dict[str, Any] = {"progressive": 0.5, "pass_blocks": 1}


@pytest.mark.parametrize(
    ("changes", "kills"), [({"patience": 30}, 2), nightly((LORA, 1)), nightly((PROGRESSIVE, 1))], ids=str
)
def test_killed_and_resumed_gives_the_same_bits(changes: dict[str, Any], kills: int, tmp_path: Path) -> None:
    converted(tmp_path, "stock-padded")
    changes = LONG | changes
    killed, rng = HealFolder(tmp_path / "killed"), random.Random(0)
    for _ in range(kills):
        process = forked.start(healed, tmp_path, "killed", **changes)
        wait_for(process, killed, rng.randint(2, 5))
        forked.end(process)
        assert not killed.model.exists()
    assert_same(healed(tmp_path, "killed", **changes), healed(tmp_path, "whole", **changes))


def test_another_text_under_the_same_name_ends_what_was_begun(tmp_path: Path) -> None:
    converted(tmp_path, "stock-padded")
    folder = healed(tmp_path, steps=1)
    folder.metrics.unlink()
    folder.states.mkdir()
    # The states are removed at the end; one that was stopped has this.
    hold_inputs(folder.inputs, {"validation text": "sha256:before"}, folder.path)
    with pytest.raises(UserError, match="another validation text under the same name"):
        healed(tmp_path, steps=1)


@pytest.mark.parametrize(
    ("family", "layout", "changes"),
    [
        pytest.param("gpt2", "ragged", {}, id="dropout"),
        pytest.param("llama", "stock-padded", LORA, id="lora", marks=pytest.mark.nightly),
        pytest.param("llama", "stock-padded", PROGRESSIVE, id="progressive", marks=pytest.mark.nightly),
    ],
)
def test_stopped_and_resumed_gives_the_same_bits(
    family: str, layout: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-training, by an exception: what draws random numbers, and what is not all of the model."""
    converted(tmp_path, layout, family)
    if family == "gpt2":
        path = tmp_path / "start" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"resid_pdrop": 0.2}))

    module = sys.modules["gqasearch.run.heal.heal"]  # the package's name for it is heal()'s
    write_history = module._write_history

    def write_and_stop(folder: HealFolder, history: list[dict[str, Any]]) -> None:
        write_history(folder, history)
        if history[-1]["step"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_history", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            healed(tmp_path, "stopped", **changes)
    assert_same(healed(tmp_path, "stopped", **changes), healed(tmp_path, "whole", **changes))


def torchrun(tmp_path: Path, **changes: Any) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    subprocess.run(command(tmp_path, "two", *launcher, **changes), check=True, timeout=240)


def by_hand(tmp_path: Path, **changes: Any) -> None:
    """Two processes that are told what torchrun would tell them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    sizes = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    told = [{**place, **sizes, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    processes = [forked.start(healed_as, environment, tmp_path, "two", **changes) for environment in told]
    for process in processes:
        process.join(240)
        assert process.exitcode == 0


def healed_as(environment: dict[str, str], tmp_path: Path, name: str, **changes: Any) -> None:
    os.environ.update(environment)
    healed(tmp_path, name, **changes)


@pytest.mark.parametrize("launch", [by_hand, nightly(torchrun)])
def test_two_processes_train_as_one_does(launch: Callable[..., None], tmp_path: Path) -> None:
    """Each takes half of every step's blocks."""
    converted(tmp_path, "stock-symmetric")
    launch(tmp_path, batch_blocks=4)
    one, two = healed(tmp_path, "one", batch_blocks=4), HealFolder(tmp_path / "two")
    for mine, theirs in zip(history_of(one), history_of(two), strict=True):
        assert theirs["kl"] == pytest.approx(mine["kl"], rel=1e-3)
    for name, tensor in stored_tensors(one.model).items():
        torch.testing.assert_close(stored_tensors(two.model)[name], tensor, atol=2e-4, rtol=0)
    assert two.metrics.is_file()


def test_blocks_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_blocks 3 cannot be shared by 2 processes"):
        arguments(settings(tmp_path, batch_blocks=3), 2, tmp_path)


def test_one_gpu_is_not_shared_by_processes() -> None:
    Ranks(0, 0, 2).check("cuda")
    Ranks().check("cuda:0")
    with pytest.raises(UserError, match="--device cuda:0 is one device; 2 processes take --device cuda"):
        Ranks(0, 0, 2).check("cuda:0")


def test_processes_wait_for_hours_while_the_first_runs_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[timedelta] = []
    monkeypatch.setattr("torch.distributed.init_process_group", lambda _backend, timeout: limits.append(timeout))
    Ranks(1, 1, 2).join("cpu")
    assert limits[0] > timedelta(hours=12)


def some_state(step: int) -> HealState:
    weight = torch.nn.Parameter(torch.arange(6.0).view(2, 3) + step)
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    schedule = {"last_epoch": step, "_last_lr": [0.1]}
    return HealState(step, {"w": weight}, optimizer.state_dict(), schedule, [{"step": step}], {"w": weight.detach()})


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(tmp_path, some_state(2))
    wanted = some_state(4)
    save_state(tmp_path, wanted)
    found = latest_state(tmp_path)
    assert found is not None and [path.name for path in tmp_path.iterdir()] == ["step-4"]
    assert (found.step, found.schedule, found.history) == (4, wanted.schedule, wanted.history)
    assert found.best is not None
    assert torch.equal(found.trained["w"], wanted.trained["w"]) and torch.equal(found.best["w"], wanted.trained["w"])
    other = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2, 3))], lr=0.5)
    other.load_state_dict(found.optimizer)
    assert other.param_groups[0]["lr"] == 0.1
    moments, expected = other.state_dict()["state"][0], wanted.optimizer["state"][0]
    assert all(torch.equal(moments[name], expected[name]) for name in expected)


def test_a_damaged_state_is_told(tmp_path: Path) -> None:
    save_state(tmp_path, some_state(2))
    (tmp_path / "step-2" / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-2 is damaged.*remove it"):
        latest_state(tmp_path)

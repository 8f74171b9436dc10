"""The plan of a run: counted as it says, told before the work, refused where it does not fit, noted beside results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.run import RunFolder, forecast, free_room, run
from gqasearch.run.cost_plan import HEAD, Plan, Rates, Sizes, Stage, cache_bytes, make_plan
from gqasearch.run.forecast import plan_words, require_room
from gqasearch.run.sizes import sizes_of
from gqasearch.steps import Workspace
from gqasearch.steps.outlook import Outlook

GB = 10**9
# Llama-2-7B on 65,536 tokens, on a machine of 70 GFLOP/s.
SEVEN = Sizes(
    layers=32,
    hidden=4096,
    query_heads=32,
    head_dim=128,
    layer_values=202_383_360,
    other_values=262_144_000,
    vocabulary=32000,
    value_bytes=2,
    stored_bytes=13_500_000_000,
    room=2**28,
    stream_room=2**26,
    block_length=256,
    batch_blocks=8,
    calibration_tokens=65536,
    refine_tokens=65536,
    evaluation_tokens=65536,
    groups=4224,
    group_heads=2.0,
    candidates=190_000,
    model_tokens=0,
    steps=160,
    step_tokens=1024,
    joint_steps=0,
    joint_tokens=0,
    models=3,
    materialize=True,
)
RATES = Rates(layer=4.8e-3, product=2.9e-11, factor=3e-10, base=GB // 2)


def seconds(sizes: Sizes) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in make_plan(sizes, RATES).stages}


# What is counted


def test_stages_grow_with_what_they_are_made_of() -> None:
    plain, twice = seconds(SEVEN), seconds(replace(SEVEN, layers=64))
    assert list(plain) == ["load", "calibration", "search", "refine", "convert", "evaluation"]
    for name in ("calibration", "refine"):  # layer by layer
        assert twice[name] == pytest.approx(2 * plain[name])
        assert seconds(replace(SEVEN, calibration_tokens=131072, refine_tokens=131072))[name] > 1.4 * plain[name]
    head = HEAD * RATES.layer * SEVEN.vocabulary * SEVEN.hidden / SEVEN.layer_values
    assert plain["evaluation"] == pytest.approx(3 * 65536 * (32 * RATES.layer + head))
    assert seconds(replace(SEVEN, model_tokens=10**6))["search"] - plain["search"] == pytest.approx(
        10**6 * (32 * RATES.layer + head)
    )
    assert seconds(replace(SEVEN, groups=8448))["search"] > 1.5 * plain["search"]


def test_layers_together_take_the_whole_model() -> None:
    joint = replace(SEVEN, joint_steps=200, joint_tokens=512)
    head = HEAD * RATES.layer * SEVEN.vocabulary * SEVEN.hidden / SEVEN.layer_values
    more = seconds(joint)["refine"] - seconds(SEVEN)["refine"]
    assert more == pytest.approx(4 * 200 * 512 * (32 * RATES.layer + head))
    values = 32 * SEVEN.layer_values + SEVEN.other_values
    attention = 32 * SEVEN.attention_values
    assert make_plan(joint, RATES).largest.bytes > 2 * values + 4 * 4 * attention  # weights, gradients, two moments


def test_what_is_not_done_takes_nothing() -> None:
    bare = replace(SEVEN, calibration_tokens=0, refine_tokens=0, materialize=False)
    assert list(seconds(bare)) == ["load", "search", "evaluation"]
    plan = make_plan(bare, RATES)
    assert plan.folder_disk == plan.cache_disk == 0
    assert [stage.name for stage in plan.without({"search", "load"}).stages] == ["evaluation"]


def test_no_memory_grows_with_layers() -> None:
    few, many = make_plan(replace(SEVEN, layers=4), RATES), make_plan(SEVEN, RATES)
    assert [stage.bytes for stage in few.stages] == [stage.bytes for stage in many.stages]
    assert many.largest.bytes > RATES.base + SEVEN.room


def test_disk_is_statistics_and_streams() -> None:
    """Two D x D moments and the sample of every layer; hidden states of two levels, which do not fit into the room."""
    statistics = 32 * (2 * 8 * 4096**2 + 256 * 4096 * 4)
    assert cache_bytes(SEVEN) == statistics + 2 * 65536 * 4096 * 2
    assert cache_bytes(replace(SEVEN, calibration_tokens=4096)) == statistics


# Refusals


def planned(sizes: Sizes) -> Plan:
    return make_plan(sizes, RATES)


def refusal(sizes: Sizes, folder: Path, memory: int | None) -> str:
    with pytest.raises(UserError) as error:
        require_room(sizes, planned, folder, memory)
    return str(error.value)


def test_a_refusal_names_three_settings_that_make_it_fit(tmp_path: Path) -> None:
    wide = replace(SEVEN, vocabulary=256_000, block_length=1024, value_bytes=4)
    words = refusal(wide, tmp_path, 9 * GB)
    asked = [part for part in ("--batch-blocks 1", "--block-length 256", "--dtype bfloat16") if part in words]
    assert len(asked) >= 2 and words.count(" --") == 4 and "it then fits" in words  # three, and --memory
    relieved = replace(wide, batch_blocks=1, block_length=256, value_bytes=2, calibration_tokens=4096)
    require_room(relieved, planned, tmp_path, 9 * GB)


def test_a_machine_that_no_setting_makes_large_enough(tmp_path: Path) -> None:
    words = refusal(SEVEN, tmp_path, GB)
    assert "a larger machine" in words and words.count(" --") == 4 and "may take 1.0 GB" in words


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "free_disk", lambda _: 20 * GB)
    words = refusal(SEVEN, tmp_path, None)
    assert "of disk" in words and "--calibration-tokens 4096" in words
    monkeypatch.setattr(forecast, "free_disk", lambda _: 1000 * GB)
    require_room(SEVEN, planned, tmp_path, None)


def test_settings_that_change_nothing_are_not_named() -> None:
    small = replace(SEVEN, batch_blocks=1, block_length=64, calibration_tokens=4096, refine_tokens=4096)
    named = [words for words, _ in forecast._settings(small)]
    assert named == ["--no-materialize", "--refine none"]


# What is told


def flags(settings: dict[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def test_a_run_is_told_its_plan_and_notes_what_it_took(settings: dict[str, Any], tmp_path: Path) -> None:
    told: list[str] = []
    folder = run(build_config(settings), tmp_path / "run", report=False, tell=told.append)
    assert [words.split(":")[0] for words in told][-3:] == ["expected time", "expected memory", "expected disk"]
    metrics = json.loads(folder.metrics.read_text())
    plan = metrics["planned"]
    assert plan["seconds"].keys() == plan["peak_bytes"].keys()
    assert plan["seconds"].keys() <= metrics["peak_bytes"].keys()
    assert plan["disk_bytes"] > 0 and all(taken > 0 for taken in plan["seconds"].values())
    again: list[str] = []
    run(build_config(settings), tmp_path / "run", report=False, tell=again.append)
    assert again == []  # nothing is left to do


def test_what_is_done_is_not_planned_again(settings: dict[str, Any], tmp_path: Path) -> None:
    work = Workspace(build_config(settings))
    outlook, folder = Outlook(work), RunFolder(tmp_path / "run")
    first = forecast.forecast(work, outlook, folder)
    assert {"calibration", "search", "refine"} <= {stage.name for stage in first.stages}
    folder.path.mkdir()
    folder.grouping.write_text("{}")
    left = [stage.name for stage in forecast.forecast(work, outlook, folder).stages]
    assert "refine" in left and "search" not in left
    assert plan_words(Plan((), 0, 0)) == plan_words(None) == []
    assert "2.0 h" in plan_words(Plan((Stage("search", 7200, 1),), 0, 0))[0][1]


def test_a_run_without_room_is_refused_before_there_is_a_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    for more in ([], ["--dry-run"]):
        result = CliRunner().invoke(
            app, ["search", *flags(settings), "--memory", "0.001", "--output-dir", str(tmp_path / "run"), *more]
        )
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        assert "may take 1 MB" in result.stderr and not (tmp_path / "run").exists()


def test_a_dry_run_tells_the_plan(settings: dict[str, Any], tmp_path: Path) -> None:
    arguments = ["search", *flags(settings), "--output-dir", str(tmp_path / "run"), "--dry-run"]
    text = CliRunner().invoke(app, arguments).stdout
    assert "# expected time: about" in text and "# expected memory: up to" in text and "# expected disk" in text
    assert "refine" in json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["expected time"]


def test_sizes_of_a_model_are_those_of_its_files(settings: dict[str, Any]) -> None:
    work = Workspace(build_config({**settings, "uneven": True}))
    sizes = sizes_of(work, Outlook(work))
    parameters = sum(parameter.numel() for parameter in work.parent.model.parameters())
    counted = sizes.layers * sizes.layer_values + sizes.other_values
    assert abs(counted - parameters) < 0.02 * parameters
    assert sizes.groups == 2**work.source.geometry.num_kv_heads - 1 and sizes.model_tokens == 0
    even = Workspace(build_config({"method_parameters": {"max_groups": 50}}))
    assert sizes_of(even, Outlook(even)).groups == 132 * 12
    whole, none = (Workspace(build_config({"kv_ratio": ratio})) for ratio in (1 / 12, 1.0))
    assert sizes_of(whole, Outlook(whole)).groups == 1, "all heads are one group"
    assert sizes_of(none, Outlook(none)).groups == 12, "every head is one"
    curve = Workspace(build_config({"method_parameters": {"max_groups": 50}, "uneven": True}))
    assert sizes_of(curve, Outlook(curve)).groups == 50
    running = Workspace(build_config({**settings, "objectives": ["kl"], "max_evaluations": 10}))
    assert sizes_of(running, Outlook(running)).model_tokens == 10 * running.blocks("search").tokens


# What the machine has


def write_machine(root: Path, groups: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    (root / "own").write_text(groups)
    for name, content in files.items():
        path = root / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for name, path in (("MEMINFO", "meminfo"), ("OWN_GROUPS", "own"), ("GROUPS", "groups")):
        monkeypatch.setattr(free_room, name, root / path)


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("0::/\n", {}, 4_096_000),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "7\n", "memory.stat": ""}, 4_096_000),
        # Version 2: the group above has the lower limit; what files occupy is given back.
        (
            "0::/a/b\n",
            {
                "a/b/memory.max": "max\n",
                "a/memory.max": "1000000\n",
                "a/memory.current": "900000\n",
                "a/memory.stat": "anon 1\ninactive_file 500000\n",
            },
            600_000,
        ),
        # Version 1, in a container that sees its own group at the root.
        (
            "5:cpu:/x\n4:memory:/x/y\n0::/\n",
            {
                "memory/memory.limit_in_bytes": "2000000\n",
                "memory/memory.usage_in_bytes": "2500000\n",
                "memory/memory.stat": "inactive_file 9\ntotal_inactive_file 100\n",
            },
            0,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 4_096_000),
    ],
)
def test_free_memory_is_what_limits_leave(
    groups: str, files: dict[str, str], free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_machine(tmp_path, groups, files, monkeypatch)
    assert free_room.free_memory() == free


def test_a_system_that_does_not_tell_has_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_room, "MEMINFO", tmp_path / "none")
    assert free_room.free_memory() is None
    assert free_room.free_disk(tmp_path / "not" / "there") == free_room.free_disk(tmp_path)
    assert free_room.same_disk(tmp_path / "a" / "b", tmp_path)

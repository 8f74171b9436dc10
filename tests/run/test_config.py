"""Configurations: file, flags and --set agree, and every mistake is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.budget import counts_from_model_ratio
from gqasearch.config import RunConfig, apply_settings, build_config, read_config_file
from gqasearch.errors import UserError
from gqasearch.models import HeadGeometry
from gqasearch.run import RunFolder, default_output_dir
from gqasearch.sections import SECTIONS, Section
from gqasearch.steps import Workspace

GEOMETRY = HeadGeometry(4, 12, 12, 16, 192, 16)


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    config = build_config({"kv_ratio": 0.25, "method_parameters": {"population": 8}, "objectives": ["kl", "kv-ratio"]})
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml())
    assert build_config(read_config_file(path)) == config


def test_settings_reach_every_section() -> None:
    values = apply_settings(
        {"fitness_parameters": {"form": "token-wise"}},
        ["fitness.form=best-match", "method.population=8", "kv_ratio=0.5", "merge.x=[1, 2]", "refine.steps=80"],
    )
    assert values == {
        "fitness_parameters": {"form": "best-match"},
        "method_parameters": {"population": 8},
        "kv_ratio": 0.5,
        "merge_parameters": {"x": [1, 2]},
        "refine_parameters": {"steps": 80},
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kv_ration": 0.5}, "did you mean 'kv_ratio'"),
        ({"kv_ratio": 0.5, "kv_heads": 3}, "one of kv_ratio, kv_heads, kv_budget"),
        ({"kv_ratio": "half"}, "kv_ratio: .*got 'half'"),
        ({"objectives": ["kv-ratio"]}, "first objective must be a fitness"),
        ({"objectives": []}, "one or more different names"),
        ({"seed": -1}, "seed"),
        ({"dtype": "int8"}, "dtype"),
        ({"equal_sizes": True, "max_group_size": 3}, "no effect with equal_sizes"),
        ({"uneven": True, "kv_heads": 3}, "uneven has no effect with kv_heads or kv_budget; give kv_ratio"),
        ({"uneven": True, "kv_budget": 24}, "uneven has no effect with kv_heads or kv_budget; give kv_ratio"),
        ({"uneven": True, "equal_sizes": True}, "equal_sizes needs one number of groups for all layers"),
        ({"uneven": True, "objectives": ["kl", "kv-ratio"]}, "uneven has no effect with kv-ratio as an objective"),
    ],
)
def test_bad_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_config(values)


@pytest.mark.parametrize("item", ["kv_ratio", "=1", "fitnes.form=x", "a=[", "search.x=1"])
def test_bad_settings(item: str) -> None:
    with pytest.raises(UserError, match="--set"):
        apply_settings({}, [item])


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(UserError, match="cannot read"):
        read_config_file(path)
    path.write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        read_config_file(path)
    path.write_text("- 1")
    with pytest.raises(UserError, match="must hold a mapping"):
        read_config_file(path)
    path.write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="not valid YAML"):
        read_config_file(path)
    path.write_text("seed: 1\nmethod_parameters:\n  offspring: 2\n  population: 3\n  offspring: 4\n")
    with pytest.raises(UserError, match=r"(?s)offspring is given twice.*line 5"):
        read_config_file(path)
    path.write_text("a: &base {x: 1}\nb: {<<: *base, x: 2}\n")
    assert read_config_file(path) == {"a": {"x": 1}, "b": {"x": 2}}


def test_budgets() -> None:
    assert build_config({}).budget(GEOMETRY).counts == (6,) * 4
    assert build_config({}).budget(GEOMETRY).largest == 4
    assert build_config({"kv_heads": 3}).budget(GEOMETRY).largest == 8
    moving = build_config({"kv_budget": 26}).budget(GEOMETRY)
    assert moving.counts == (7, 7, 6, 6) and moving.movable
    uneven = build_config({"kv_ratio": 0.25, "uneven": True}).budget(GEOMETRY)
    assert uneven.counts == (3, 3, 3, 3) and uneven.movable and uneven.largest == 12
    nearest = build_config({"kv_ratio": 0.4, "uneven": True}).budget(GEOMETRY)
    assert nearest.counts == (5, 5, 5, 4) and nearest.movable  # 19.2 of 48; 5 a layer would be 20
    equal = build_config({"equal_sizes": True}).budget(GEOMETRY)
    assert (equal.smallest_group, equal.largest) == (2, 2)
    with pytest.raises(UserError, match=r"\[1, 2, 3, 4, 6, 12\] are possible"):
        build_config({"kv_heads": 5, "equal_sizes": True}).budget(GEOMETRY)


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 9), st.integers(4, 16), st.integers(1, 4))
def test_an_uneven_budget_is_the_nearest_and_as_even_as_it_goes(
    ratio: float, layers: int, heads: int, step: int
) -> None:
    counts = counts_from_model_ratio(ratio, layers, heads, step)
    possible = range(layers * step, layers * (heads // step) * step + 1, step)
    wanted = ratio * layers * heads
    assert abs(sum(counts) - wanted) == pytest.approx(min(abs(n - wanted) for n in possible))
    assert all(count % step == 0 for count in counts)
    assert len(counts) == layers and max(counts) - min(counts) <= step and list(counts) == sorted(counts, reverse=True)


def test_groups_divide_among_devices() -> None:
    """12 heads in 4 layers."""
    two = {"tensor_parallel": 2}
    assert build_config({**two, "kv_ratio": 0.4}).budget(GEOMETRY).counts == (4,) * 4
    moving = build_config({**two, "kv_budget": 26}).budget(GEOMETRY)
    assert moving.counts == (8, 6, 6, 6) and moving.movable and moving.count_step == 2
    assert build_config({"tensor_parallel": 5, "kv_ratio": 1.0}).budget(GEOMETRY).counts == (10,) * 4
    for values, message in (
        ({"kv_heads": 3}, "groups of layer 0 must be a multiple of 2, got 3"),
        ({"kv_budget": 25}, r"--kv-budget must be a multiple of 2 in 8..48, got 25"),
        ({"tensor_parallel": 13}, "tensor_parallel must be at most the model's 12 KV heads, got 13"),
    ):
        with pytest.raises(UserError, match=message):
            build_config({**two, **values}).budget(GEOMETRY)
    with pytest.raises(UserError, match="qcqa-ac decides the groups of every layer; leave tensor_parallel out"):
        build_config({**two, "method": "qcqa-ac"}).budget(GEOMETRY, splits_budget=True)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01])
@pytest.mark.parametrize("uneven", [False, True])
def test_ratios_out_of_range_are_refused(ratio: float, uneven: bool) -> None:
    with pytest.raises(UserError, match="--kv-ratio must be above 0 and at most 1"):
        build_config({"kv_ratio": ratio, "uneven": uneven}).counts(GEOMETRY)


def test_run_folders_are_named_by_what_differs() -> None:
    settings: list[dict[str, Any]] = [{}, {"uneven": True}, {"kv_heads": 6}, {"kv_budget": 24}, {"kv_ratio": 0.25}]
    names = [default_output_dir(build_config(values)).name for values in settings]
    assert len(set(names)) == len(names)
    assert names[:2] == [f"embedded-ratio0.5{way}-merge-error-optimal-evolution-seed0" for way in ("", "-uneven")]


@pytest.mark.parametrize(
    ("values", "refine"),
    [
        ({}, "descent"),
        ({"merge": "mean"}, "none"),
        ({"merge": "mean", "refine": "descent"}, "descent"),
        ({"refine": "none"}, "none"),
        ({"method": "qcqa-ac"}, "none"),
    ],
)
def test_a_refinement_that_is_not_named_is_the_merges(values: dict[str, Any], refine: str) -> None:
    assert Workspace(build_config(values)).config.refine == refine
    assert Workspace(build_config(values)).refinement.name == refine


def test_parameters_of_a_refinement_are_checked() -> None:
    with pytest.raises(UserError, match="unknown parameter of refinement none 'steps'"):
        Workspace(build_config({"merge": "mean", "refine_parameters": {"steps": 3}})).refinement  # noqa: B018


def test_folder_refuses_other_settings_and_other_things(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(RunConfig())
    folder.open(RunConfig())
    with pytest.raises(UserError, match=r"kv_ratio was None, is 0.25; seed was 0, is 1"):
        folder.open(RunConfig(kv_ratio=0.25, seed=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is no run folder"):
        RunFolder(tmp_path / "full").open(RunConfig())
    assert yaml.safe_load(folder.config.read_text())["model"] == "embedded"


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(RunConfig())
    lock = folder.acquire()
    with pytest.raises(UserError, match="another process is running"):
        folder.acquire()
    lock.release()
    folder.acquire().release()


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_its_cache_key(section: type[Section]) -> None:
    """Every setting of it changes the key, and no other."""
    others: dict[str, Any] = {"join": 2, "kv_ratio": 0.25, "objectives": ("kl",), "merge": "mean", "dtype": "float16"}
    others |= {"seed": 7, "search_tokens": 99, "evaluation_tokens": 99, "masked_blocks": 0.1, "layout": "ragged"}
    others |= {"separate_kv": True, "kv_bits": "8", "model": "other", "batch_blocks": 3}
    plain = RunConfig()
    assert {name for name in others if name in section.model_fields}, "the sample has one of each section"
    for name, value in others.items():
        changed = plain.model_copy(update={name: value})
        assert (changed.key(section) != plain.key(section)) == (name in section.model_fields), name

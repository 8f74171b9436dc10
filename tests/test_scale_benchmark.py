"""The scale benchmark: processes measured alone, models of real shapes, rows that are kept, lines through them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.benchmarks import scale, scale_models
from experiments.benchmarks.apart import DONE, Limits, Measured, measured_apart
from experiments.benchmarks.scale_jobs import (
    BASELINE,
    EMBEDDED,
    FORWARD,
    KEY,
    THIS,
    Bench,
    Case,
    Row,
    Rows,
    measure_case,
    read_rows,
)
from experiments.benchmarks.scale_models import Shape, make_shape
from experiments.benchmarks.scale_plot import draw_scale
from experiments.benchmarks.scale_tables import main_table, medians, plan_table, side_by_side, slope_table, stage_table
from experiments.benchmarks.trees import ROOT, Tree, commit_of, this_tree, tree_of
from gqasearch.errors import UserError
from gqasearch.files import read_json
from gqasearch.models import ModelSource

MB = 10**6


def python(code: str, folder: Path, limits: Limits | None = None) -> Measured:
    return measured_apart([sys.executable, "-c", code], folder, os.environ, folder / "log", limits or Limits())


# A process measured alone


def test_a_process_is_measured_without_whoever_starts_it(tmp_path: Path) -> None:
    ballast = np.ones(300 * MB // 8)  # resident here, as torch is
    small = python("pass", tmp_path)
    assert small.outcome == DONE and small.peak < 100 * MB < ballast.nbytes
    code = "import time; x = b'1' * 200_000_000\nwhile time.process_time() < .5: pass"
    large = python(code, tmp_path)
    assert 200 * MB < large.peak < 300 * MB
    assert large.cpu >= 0.4


def test_children_that_it_waits_for_count(tmp_path: Path) -> None:
    inner = "x = b'1' * 200_000_000"
    found = python(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])", tmp_path)
    assert found.peak > 200 * MB


def test_a_failure_is_told_in_its_last_line(tmp_path: Path) -> None:
    assert python("import sys; print('one'); sys.exit('no such head')", tmp_path).outcome == "exit 1: no such head"
    assert python("import os; os.kill(os.getpid(), 9)", tmp_path).outcome == "signal 9"


def test_a_process_beyond_a_limit_is_stopped(tmp_path: Path) -> None:
    code = "x = b'1' * 300_000_000; import time; time.sleep(60)"
    assert python(code, tmp_path, Limits(gigabytes=0.2)).outcome == "stopped at 0.2 GB"
    assert python("import time; time.sleep(60)", tmp_path, Limits(seconds=0.3)).outcome == "stopped after 0.3 s"


# Models


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Shape:
    shape = Shape(32, 4, 48, 5)
    monkeypatch.setitem(scale_models.SHAPES, "w512", shape)
    monkeypatch.setattr("experiments.benchmarks.checkpoints.MOST_VALUES", 1000)  # tensors in several parts
    return shape


def test_models_of_a_shape_share_their_layers(tiny: Shape, tmp_path: Path) -> None:
    two, three = (make_shape("w512", layers, tmp_path) for layers in (2, 3))
    assert [len(ModelSource(folder, "").tensors.headers) for folder in (two, three)] == [3, 4]  # a shard per layer
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (two, three)]
    short, long = (dict(model.state_dict()) for model in models)
    assert short.keys() < long.keys() and all(torch.equal(short[name], long[name]) for name in short)
    assert not torch.equal(*(long[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in (0, 1)))
    for name, tensor in long.items():
        assert tensor.dtype == torch.bfloat16
        values = tensor.float()
        if "norm" in name:
            assert (values == 1).all()
        else:
            assert values.std() == pytest.approx(0.02, rel=0.1) and abs(values.mean()) < 0.003
    index = read_json(three / "model.safetensors.index.json")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in long.values())
    assert models[0].config.num_key_value_heads == models[0].config.num_attention_heads == tiny.heads


def test_a_shape_has_a_tokenizer_that_works(tiny: Shape, tmp_path: Path) -> None:
    folder = make_shape("w512", 1, tmp_path)
    ids = AutoTokenizer.from_pretrained(folder)("def read(path):")["input_ids"]
    assert len(ids) > 1 and max(ids) < ModelSource(folder, "").config["vocab_size"]


# Trees


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout")
def test_a_commit_has_a_worktree_that_is_gone_afterwards() -> None:
    head = commit_of("HEAD")
    with tree_of("HEAD", Path(sys.executable)) as tree:
        assert tree.commit == head and (tree.folder / "gqasearch" / "__init__.py").is_file()
        paths = tree.environment(1)["PYTHONPATH"].split(os.pathsep)
        assert paths == [str(tree.folder), str(tree.folder / "fitness")]
    assert not tree.folder.exists()
    with pytest.raises(UserError, match="no-such-commit"):
        commit_of("no-such-commit")


# Rows and tables


def row(layers: int, what: str, repeat: int = 0, commit: str = "1e5", **figures: object) -> Row:
    key = dict.fromkeys(KEY, 0) | {"model": "llama-2-7b", "dtype": "bfloat16", "flags": "", "threads": 1}
    own = {"layers": layers, "what": what, "repeat": repeat, "calibration_tokens": 4096, "evaluation_tokens": 512}
    told = {"commit": commit, "outcome": DONE, "wall": 100.0, "cpu": 1.0, "peak": 1e9}
    return {**key, **own, **told, **figures}


def test_a_row_is_measured_once_per_commit(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.csv", again=False)
    first = row(2, THIS)
    assert not rows.has(first, "1e5")
    rows.add(first)
    rows.add(row(2, BASELINE, commit="1e6"))
    assert rows.has(first, "1e5") and not rows.has(first, "1e7") and not rows.has(row(2, THIS, repeat=1), "1e5")
    assert not Rows(rows.path, again=True).has(first, "1e5")
    rows.add(row(2, THIS, commit="1e7", cpu=7.0, **{"seconds: refine": 3.0}))
    found = rows.read()
    assert len(found) == 2 and found[found["what"] == THIS][["commit", "cpu"]].values.tolist() == [["1e7", 7.0]]
    assert rows.has(row(2, BASELINE), "1e6")


def sample() -> pd.DataFrame:
    """Lines: this tree 2 GB + 0.1 a layer and 10 s + 5 a layer, the baseline twice that, the pass 2 s + 1 a layer."""
    rows = []
    for layers in (2, 4):
        for repeat, noise in enumerate((0.0, 0.0, 50.0)):  # medians leave it out
            peak, cpu = 2e9 + 1e8 * layers, 10.0 + 5 * layers + noise
            stages = {"seconds: search": 10.0, "seconds: refine": 20.0}
            rows.append(row(layers, THIS, repeat, peak=peak, cpu=cpu, kl=0.1, **stages))
            rows.append(row(layers, BASELINE, repeat, peak=2 * peak, cpu=2 * cpu, kl=0.2, **{"seconds: search": 30.0}))
            rows.append(row(layers, FORWARD, repeat, commit="", cpu=2.0 + layers, evaluation_tokens=0))
    rows.append(row(8, BASELINE, outcome="stopped at 12 GB", peak=12e9, cpu=3.0))
    return pd.DataFrame(rows)


def test_lines_through_medians() -> None:
    slopes = slope_table(sample()).set_index("tree")
    this, base = slopes.loc["this 1e5"], slopes.loc["base 1e5"]
    assert this["GB per layer"] == pytest.approx(0.1) and base["GB per layer"] == pytest.approx(0.2)
    assert this["its GB"] == pytest.approx(2 + 3.2) and this["its CPU hours"] == pytest.approx(170 / 3600)
    assert this["its forward passes"] == pytest.approx(170 / 34) and this["from layers"] == "2 4"


def test_tables_tell_of_both_trees() -> None:
    middle = medians(sample()).set_index(["what", "layers"])
    assert middle.loc[(THIS, 2), "passes"] == pytest.approx(20 / 4)
    assert middle.loc[(BASELINE, 8), "outcome"] == "stopped at 12 GB"
    ratios = side_by_side(sample())
    assert ratios[["cpu", "peak", "kl"]].to_numpy() == pytest.approx(0.5) and ratios["layers"].tolist() == [2, 4]
    stages = stage_table(sample())
    assert set(stages["not noted"]) == {70.0, 100.0}
    assert len(main_table(sample())) == 5


def test_what_was_planned_stands_beside_what_it_took() -> None:
    rows = sample()
    assert plan_table(rows).empty
    told = {"planned seconds: refine": 30.0, "planned peak: refine": 3e9, "peak: refine": 2e9}
    table = plan_table(
        rows.assign(**{name: np.where(rows["what"] == THIS, value, np.nan) for name, value in told.items()})
    )
    assert table["stage"].tolist() == ["refine", "refine"] and table["layers"].tolist() == [2, 4]
    assert table["ratio"].tolist() == [1.5, 1.5] and table["planned, GB"].tolist() == [3.0, 3.0]


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    draw_scale(sample(), tmp_path / "results" / "scale.png")
    assert (tmp_path / "results" / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_sections_name_their_cases() -> None:
    arguments = scale.parser().parse_args(["memory", "--layers", "2", "4", "--flags=--uneven"])
    assert [case.layers for case in scale.cases("memory", arguments)] == [2, 4]
    (real,) = scale.cases("smollm2", arguments)
    assert real.flags == "--uneven --kv-ratio .667 --uneven" and real.text == "pydoc-topics.txt"


# A whole row


def test_a_run_that_somebody_stops_leaves_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = row(2, THIS, outcome="exit 143: stopped")
    monkeypatch.setattr("experiments.benchmarks.scale_jobs.measure_job", lambda *_, **__: stopped)
    rows = Rows(tmp_path / "rows.csv", again=False)
    case = Case("llama-2-7b", 2, 4096, 512, "bfloat16")
    with pytest.raises(UserError, match="stopped from outside"):
        measure_case(Bench(tmp_path, 1, Limits()), case, {THIS: this_tree()}, 1, rows)
    assert not rows.path.exists()


@pytest.mark.nightly
def test_a_job_and_a_pass_are_measured(tiny: Shape, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "work", 1, Limits(), log=tmp_path / "logs")
    flags = "--method neighbour --merge mean --refine none --no-baseline --block-length 64"
    case = Case("w512", 2, 256, 256, "bfloat16", flags)
    rows, tree = Rows(tmp_path / "rows.csv", again=False), this_tree()
    trees: dict[str, Tree] = {THIS: tree, FORWARD: tree}
    measure_case(bench, case, trees, 1, rows)
    found = read_rows(rows.path).set_index("what")
    assert found["outcome"].tolist() == [DONE, DONE] and found.loc[THIS, "kl"] > 0
    assert found.loc[THIS, "cpu"] > found.loc[FORWARD, "cpu"] > 0
    for words in ("seconds", "cpu", "peak", "planned seconds", "planned peak"):
        assert found.loc[THIS, f"{words}: evaluation"] > 0
    (log,) = (tmp_path / "logs").iterdir()
    assert str(tmp_path) not in log.read_text()
    assert bench.model_of(Case(EMBEDDED, 6, 256, 256, "bfloat16")) == EMBEDDED

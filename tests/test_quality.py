"""The sections of the quality experiments: quick versions on a tiny model, and what their parts promise."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.quality import __main__ as command
from experiments.quality import refinements, reuse, runs, staging
from experiments.quality.__main__ import RESULTS, SECTIONS
from experiments.quality.bench import Options
from experiments.quality.summary import summarise
from experiments.quality.variants import ByItself, MLPStreams, PartialDescent, down_projection, variants, with_mlp
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import Parent, layers_replaced, tie_heads
from gqasearch.refining import NoRefinement, Outputs
from tests.refining.cases import THIRDS, blocks_of, converter_of, state_of, untouched
from tests.samples import logits_of
from tests.tiny_models import save_checkpoint, tiny_model, tiny_parent


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Options:
    model = save_checkpoint(tiny_model("llama"), tmp_path_factory.mktemp("model"))
    return Options(str(model), (0.5,), (), 1, 1, tmp_path_factory.mktemp("runs"), quick=True)


@pytest.fixture(scope="module")
def parent() -> Parent:
    return tiny_parent("qwen2", layers=3)


HALF = Grouping(
    (LayerGrouping.singletons(6), LayerGrouping.neighbours(6, 3), LayerGrouping.from_labels([0, 1, 0, 1, 2, 2]))
)


# Results


@pytest.mark.parametrize("section", SECTIONS)
def test_committed_results_can_be_shown(section: str) -> None:
    path = RESULTS / f"{section}.csv"
    if not path.is_file():
        pytest.skip("not measured yet")
    table = SECTIONS[section][2](pd.read_csv(path))
    assert len(table) and not table.columns.duplicated().any()


def test_refinements_are_measured(options: Options) -> None:
    rows = refinements.measure(options)
    assert list(rows["variant"]) == list(variants(True)) and (rows["kl"] > 0).all()
    kl = rows.set_index("variant")["kl"]
    assert kl["outputs"] < kl["none"] and kl.nunique() == len(kl)
    table = refinements.summary(pd.concat([rows, rows.assign(ratio=0.25)]))
    assert list(table.columns) == ["variant", "KL at 0.5", "KL at 0.25", "seconds"]
    assert list(table["variant"]) == list(variants(True)) and (table["KL at 0.5"] == kl.values).all()


def test_reuse_is_measured_and_both_ways_agree(options: Options) -> None:
    rows = reuse.measure(options)
    assert list(rows["layer"]) == [0, 1] and (rows[["reuse", "full", "convert"]] > 0).all(axis=None)
    assert rows["difference"].max() < 1e-9


def test_shares_of_reuse_are_averaged_as_layers_are_drawn() -> None:
    rows = pd.DataFrame({"layer": [0, 1, 1, 1], "reuse": [4.0, 1.0, 9.0, 1.0], "full": 4.0, "convert": 2.0})
    table = reuse.summary(rows).set_index("the layer that differs")
    found = table["of a full evaluation"]
    assert found.tolist() == pytest.approx([1, 0.25, 0.625, (0.5 * 1 + 1 * 0.25) / 1.5])
    assert table.iloc[:, 1].tolist() == pytest.approx([0.5] * 4)


def test_staging_is_measured(options: Options) -> None:
    rows = pd.DataFrame(staging.compare(options, 0))
    for search, part in rows.groupby("search"):
        assert part["tokens"].is_monotonic_increasing and part["search_kl"].is_monotonic_decreasing, search
    whole, staged = (rows[rows["search"] == search] for search in (staging.UNSTAGED, staging.STAGED))
    goal = whole["held_out_kl"].iloc[-1]
    assert (staged["held_out_kl"].iloc[:-1] > goal).all(), "staged search went on where it was as good"
    assert whole["tokens"].iloc[0] > staged["tokens"].iloc[0] > 0


def test_tokens_to_the_same_held_out_kl() -> None:
    def rows(seed: int, search: str, tokens: list[int], kls: list[float]) -> pd.DataFrame:
        return pd.DataFrame({"seed": seed, "search": search, "tokens": tokens, "held_out_kl": kls})

    table = staging.summary(
        pd.concat(
            [
                rows(0, "unstaged", [10, 40, 80], [0.9, 0.4, 0.5]),  # 0.5 is first had with the 0.4
                rows(0, "staged", [5, 10], [0.8, 0.5]),
                rows(1, "unstaged", [10, 40], [0.9, 0.4]),
                rows(1, "staged", [5, 60], [0.8, 0.7]),
                rows(2, "unstaged", [10, 40], [0.9, 0.4]),
                rows(2, "staged", [20], [0.3]),
            ]
        )
    )
    assert table["staged / unstaged"].tolist() == [0.25, math.inf, 0.5, 0.5]
    assert table["tokens unstaged"].tolist() == [40, 40, 40, 40]


# Variants


@pytest.mark.parametrize("name", variants(True))
def test_variants_leave_the_parent_alone_and_single_heads_as_they_are(
    parent: Parent, tmp_path: Path, name: str
) -> None:
    converter, blocks, before = converter_of(parent, tmp_path), blocks_of(parent), state_of(parent)
    convert = variants(True)[name]
    run = convert(converter, HALF, blocks, 4)
    assert not torch.equal(run(blocks.ids, blocks.mask), logits_of(parent, blocks))
    whole = Grouping.uniform(LayerGrouping.singletons(6), 3)
    assert torch.equal(convert(converter, whole, blocks, 4)(blocks.ids, blocks.mask), logits_of(parent, blocks))
    assert untouched(parent, before)


@pytest.mark.parametrize("parts", [("q",), ("k", "o"), ("v", "o")])
def test_partial_descent_changes_its_parts_alone(parent: Parent, tmp_path: Path, parts: tuple[str, ...]) -> None:
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    found = converter.refine(HALF, blocks, PartialDescent(steps=8, parts=parts))
    assert sorted(found) == [1, 2]
    for index, layer in found.items():
        merged = converter.merged_layer(HALF, index)
        for name in ("q", "k", "v"):
            same = torch.allclose(getattr(layer, name), getattr(merged, name), rtol=1e-4, atol=1e-5)
            assert same is (name not in parts), (index, name)
            bias, was = getattr(layer, f"{name}_bias"), getattr(merged, f"{name}_bias")
            assert torch.equal(bias, was) is (name not in parts), (index, name)


def test_by_itself_every_layer_stands_on_the_parents_stream(parent: Parent, tmp_path: Path) -> None:
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    alone, chain = (converter.refine(HALF, blocks, way) for way in (ByItself(Outputs()), Outputs()))
    assert torch.equal(alone[1].o, chain[1].o) and not torch.equal(alone[2].o, chain[2].o)
    top = Grouping((LayerGrouping.singletons(6), LayerGrouping.singletons(6), HALF.layers[2]))
    assert torch.equal(alone[2].o, converter.refine(top, blocks, Outputs())[2].o)


def stream_after(parent: Parent, index: int, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What leaves a decoder layer, (B, T, D)."""
    with torch.no_grad():
        out = parent.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    return out.hidden_states[index + 1]


def test_mlps_are_the_ridge_regression_to_the_parents_stream(tmp_path: Path) -> None:
    """Against least squares with the ridge as added rows, for the first converted block."""
    parent = tiny_parent("llama", layers=3)
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent, padded=True)
    tied = tie_heads(converter.merged_layer(HALF, 1), HALF.layers[1].labels, 1)
    wanted = stream_after(parent, 1, blocks.ids, blocks.mask)[blocks.mask].double()
    projection, seen = down_projection(parent, 1), []
    handle = projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with layers_replaced(parent, {1: tied}):
        left = wanted - stream_after(parent, 1, blocks.ids, blocks.mask)[blocks.mask].double()
    handle.remove()
    z = seen[0][blocks.mask].double()
    penalty = 0.1 * z.square().sum() / z.shape[1]
    rows = torch.cat([z, penalty.sqrt() * torch.eye(z.shape[1])])
    expected = np.linalg.lstsq(rows.numpy(), torch.cat([left, torch.zeros(z.shape[1], left.shape[1])]).numpy())[0].T
    with torch.no_grad():
        streams = MLPStreams(parent, blocks, 4, ridge=0.1)
        for index in (0, 1):
            streams.advance_parent(index)
            streams.advance_converted(index, tied if index else None)
    assert list(streams.changes) == [1]
    np.testing.assert_allclose(streams.changes[1].numpy(), expected, rtol=1e-3, atol=1e-5)


def test_mlps_bring_the_model_closer_on_the_text_they_were_fitted_to(tmp_path: Path) -> None:
    parent = tiny_parent("llama")
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent, blocks=40)
    own = logits_of(parent, blocks)
    errors = [
        float((convert(converter, THIRDS, blocks, 4)(blocks.ids, blocks.mask) - own).square().mean())
        for convert in (variants(True)["none"], variants(True)["outputs"], with_mlp(Outputs()))
    ]
    assert errors[2] < errors[1] < errors[0]


def test_an_mlp_of_another_make_is_refused() -> None:
    with pytest.raises(UserError, match="has no down_proj"):
        down_projection(tiny_parent("opt"), 0)


def test_quick_sections_are_not_the_real_ones(options: Options) -> None:
    assert len(variants(False)) > len(variants(True)) and NoRefinement.name in variants(False)
    work = staging._workspace(options)
    assert work.config.evaluation_tokens < staging._workspace(replace(options, quick=False)).config.evaluation_tokens


# The table's runs: kept in its file


def a_record(model: str, row: str, ratio: float, seed: int, kl: float = 0.1) -> runs.Record:
    values = dict.fromkeys(runs.COLUMNS, 1.5) | {"kv_heads": 8, "groups": "4"}
    return values | {"model": model, "row": row, "ratio": ratio, "seed": seed, "kl": kl}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """Two rows at two ratios, two seeds. Workers are threads, so that a test can put its own ``perform`` in place."""
    monkeypatch.setattr(runs, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(workers))
    return Options("a", (0.5, 0.25), ("even", "whole model"), 2, 1, tmp_path / "runs", results=tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[runs.Cell]:
    """The cells that were run, in order."""
    cells: list[runs.Cell] = []

    def perform(cell: runs.Cell, model: str, *_: Any) -> runs.Record:
        cells.append(cell)
        return a_record(model, cell.row, cell.ratio, cell.seed, kl=0.1 + 0.2)

    monkeypatch.setattr(runs, "perform", perform)
    return cells


def keys(path: Path) -> list[runs.Key]:
    return [runs._key(one) for one in runs.read_rows(path / runs.FILE).to_dict("records")]


def keep(path: Path, *records: runs.Record) -> None:
    (path / runs.FILE).write_text(pd.DataFrame(records).to_csv(index=False))


def test_table_cells_have_seeds_last_and_the_longest_first() -> None:
    rows = ["whole model, aligned", "even", "whole model"]
    assert [(cell.row, cell.ratio, cell.seed) for cell in runs.cells(rows, [0.5, 0.25], 2)] == [
        ("whole model", 0.5, 0),
        ("whole model", 0.25, 0),
        ("whole model, aligned", 0.5, 0),
        ("even", 0.5, 0),
        ("whole model, aligned", 0.25, 0),
        ("even", 0.25, 0),
        ("whole model", 0.5, 1),
        ("whole model", 0.25, 1),
        ("even", 0.5, 1),
        ("even", 0.25, 1),
    ]


def test_table_rows_are_known_to_the_command_line() -> None:
    assert {*runs.ONE_SEED, runs.LONGEST} <= set(runs.ROWS)
    for row in runs.ROWS:
        runs.Cell(row, 0.5, 1).config("embedded")


def test_table_does_not_run_what_its_file_holds(asked: Options, made: list[runs.Cell], tmp_path: Path) -> None:
    keep(tmp_path, a_record("a", "even", 0.25, 0, kl=0.7), a_record("b", "even", 0.5, 0))
    rows = runs.measure(asked)
    assert len(made) == 7 and runs.Cell("even", 0.25, 0) not in made and runs.Cell("even", 0.5, 0) in made
    assert rows.set_index(["model", "row", "ratio", "seed"])["kl"]["a", "even", 0.25, 0] == 0.7
    before = (tmp_path / runs.FILE).read_bytes()
    assert runs.measure(asked).equals(rows) and len(made) == 7
    assert (tmp_path / runs.FILE).read_bytes() == before == rows.to_csv(index=False).encode()


def test_fresh_table_runs_what_its_file_holds(asked: Options, made: list[runs.Cell], tmp_path: Path) -> None:
    keep(tmp_path, a_record("a", "even", 0.25, 0, kl=0.7), a_record("b", "even", 0.5, 0, kl=0.8))
    rows = runs.measure(replace(asked, fresh=True))
    assert len(made) == 8 and len(rows) == 9
    assert set(rows[rows["model"] == "a"]["kl"]) == {0.1 + 0.2} and set(rows[rows["model"] == "b"]["kl"]) == {0.8}


@pytest.mark.usefixtures("made")
def test_table_keeps_other_rows_in_one_order(asked: Options, tmp_path: Path) -> None:
    foreign = [("b", "even", 0.5, 0), ("a", "gone", 0.5, 0), ("a", "neighbour, mean", 0.5, 0), ("a", "even", 0.3, 7)]
    keep(tmp_path, *(a_record(*key) for key in foreign))
    runs.measure(replace(asked, ratios=(0.25, 0.75), seeds=1))
    assert keys(tmp_path) == [
        ("a", "even", 0.75, 0),
        ("a", "whole model", 0.75, 0),
        ("a", "neighbour, mean", 0.5, 0),
        ("a", "gone", 0.5, 0),
        ("a", "even", 0.3, 7),
        ("a", "even", 0.25, 0),
        ("a", "whole model", 0.25, 0),
        ("b", "even", 0.5, 0),
    ]


def test_table_has_all_that_ended_when_runs_fail(
    asked: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def perform(cell: runs.Cell, model: str, *_: Any) -> runs.Record:
        if cell.seed == 0 and cell.ratio == 0.5:
            raise UserError("no such model")
        if cell == runs.Cell("even", 0.25, 0):
            raise ValueError("a surprise")
        return a_record(model, cell.row, cell.ratio, cell.seed)

    monkeypatch.setattr(runs, "perform", perform)
    with pytest.raises(UserError) as caught:
        runs.measure(asked)
    assert str(caught.value).splitlines() == [
        "3 of 8 runs failed",
        "whole model at 0.5, seed 0; even at 0.5, seed 0: no such model",
        "even at 0.25, seed 0: ValueError: a surprise",
    ]
    assert len(keys(tmp_path)) == 5


def test_table_is_written_while_a_longer_run_goes_on(
    asked: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = Event(), runs.write_file

    def perform(cell: runs.Cell, model: str, *_: Any) -> runs.Record:
        assert cell.row != runs.LONGEST or written.wait(60), "the shorter run was kept back"
        return a_record(model, cell.row, cell.ratio, cell.seed)

    def write_and_tell(*args: Any, **keywords: Any) -> None:
        write(*args, **keywords)
        written.set()

    monkeypatch.setattr(runs, "perform", perform)
    monkeypatch.setattr(runs, "write_file", write_and_tell)
    runs.measure(replace(asked, ratios=(0.5,), seeds=1, workers=2))
    assert [row for _, row, _, _ in keys(tmp_path)] == ["even", "whole model"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("model,", "", 1), "has no column model"),
        (lambda text: "<<<<<<< HEAD\n" + text, "table.csv"),
        (lambda text: text + "=======\n", "column ratio"),
        (lambda text: text.replace("0.1,", "low,", 1), "column kl"),
        (lambda _: "", "cannot read"),
    ],
)
def test_a_damaged_table_is_named(
    asked: Options, made: list[runs.Cell], tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    keep(tmp_path, a_record("a", "even", 0.5, 0))
    path = tmp_path / runs.FILE
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message) as caught:
        runs.measure(asked)
    assert str(path) in str(caught.value) and not made


def test_table_command_writes_unless_it_is_quick(
    asked: Options, made: list[runs.Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "new" / "results"
    words = ["quality", "table", "--rows", *asked.rows, "--ratios", "0.5", "--seeds", "1", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", [*words, "--quick"])
    command.main()
    assert len(made) == len(command.QUICK_ROWS) and not results.exists()
    monkeypatch.setattr(sys, "argv", words)
    command.main()
    assert sorted(path.name for path in results.iterdir()) == ["environment.json", "table.csv"]
    assert keys(results) == [("embedded", row, 0.5, 0) for row in asked.rows]
    monkeypatch.setattr(sys, "argv", [*words, "--fresh"])
    command.main()
    assert len(made) == len(command.QUICK_ROWS) + 2 * len(asked.rows)


def test_table_is_summed_up_for_one_model_at_a_time() -> None:
    a = pd.DataFrame([a_record("a", row, 0.5, 0, kl) for row, kl in (("neighbour, mean", 0.8), ("even", 0.1))])
    b = a.assign(model="b", kl=[0.6, 0.3])
    alone, both = summarise(a), summarise(pd.concat([a, b]))
    assert "model" not in alone and alone["of mean's"].tolist() == ["1/1.0", "1/8.0"]
    assert both["model"].tolist() == ["a", "a", "b", "b"]
    assert both["of mean's"].tolist() == ["1/1.0", "1/8.0", "1/1.0", "1/2.0"]

"""The sections of the quality experiments: quick versions on a tiny model, and what their parts promise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.quality import refinements, reuse, staging, starts
from experiments.quality.__main__ import RESULTS, SECTIONS
from experiments.quality.bench import Options
from experiments.quality.overfitting import GuardedDescent
from experiments.quality.tried import SLOTS_FILLED
from experiments.quality.variants import (
    MLPStreams,
    PartialDescent,
    by_itself,
    down_projection,
    refined,
    variants,
    with_mlp,
)
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.models import Parent, layers_replaced, tie_heads
from gqasearch.refining import Descent, NoRefinement, Outputs
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
    table = SECTIONS[section][2](pd.read_csv(RESULTS / f"{section}.csv"))
    assert len(table) and not table.columns.duplicated().any()


@pytest.mark.nightly
def test_refinements_are_measured(options: Options) -> None:
    rows = refinements.measure(options)
    assert list(rows["variant"]) == list(variants(True)) and (rows["kl"] > 0).all()
    kl = rows.set_index("variant")["kl"]
    assert kl["outputs"] < kl["none"] and kl.nunique() == len(kl)
    table = refinements.summary(pd.concat([rows, rows.assign(ratio=0.25)]))
    assert list(table.columns) == ["variant", "KL at 0.5", "KL at 0.25", "seconds"]
    assert list(table["variant"]) == list(variants(True)) and (table["KL at 0.5"] == kl.values).all()


@pytest.mark.nightly
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


@pytest.mark.nightly
def test_staging_is_measured(options: Options) -> None:
    rows = pd.DataFrame(staging.compare(options, 0))
    for search, part in rows.groupby("search"):
        assert part["tokens"].is_monotonic_increasing and part["search_kl"].is_monotonic_decreasing, search
    whole, staged = (rows[rows["search"] == search] for search in (staging.UNSTAGED, staging.STAGED))
    goal = whole["held_out_kl"].iloc[-1]
    assert (staged["held_out_kl"].iloc[:-1] > goal).all(), "staged search went on where it was as good"
    assert whole["tokens"].iloc[0] > staged["tokens"].iloc[0] > 0


@pytest.mark.nightly
def test_starts_are_measured(options: Options) -> None:
    rows = starts.measure(options)
    assert rows["split"].value_counts()[[starts.EVEN, starts.ERRORS]].tolist() == [1, 1] and (rows["kl"] > 0).all()
    measured = rows[rows["split"].isin(starts.READINGS)]
    whole = measured["tokens"].max()
    assert measured.groupby("tokens")["draw"].nunique().to_dict() == {1024: 2, 4096: 2, whole: 1}
    table = starts.summary(pd.concat([rows, rows.assign(ratio=0.25)]))
    assert list(table.columns) == ["split", "levels", "tokens", "0.5", "0.25"]
    assert (table["0.5"] == table["0.25"]).all() and len(table) == 2 + 2 * 3 * len(starts.LEVELS)


@pytest.mark.nightly
def test_a_start_is_measured_as_the_search_measures_it(options: Options) -> None:
    work = starts.workspace(options, kv_ratio=0.5, **starts.SEARCH)
    problem = starts.build_problem(work, starts.prepare_fitness(work), work.method)
    assert problem.guide is not None and problem.partial is not None
    table = starts.trace_guide(problem.guide, problem.budget, np.random.default_rng(0))
    found = starts.Starts(problem, table)
    grouping = table.grouping(problem.budget.counts)
    (wanted,) = problem.evaluate([grouping])
    assert found._kl(grouping) == pytest.approx(wanted.values[0], rel=1e-6)
    (part,) = problem.evaluate_on([grouping], [1, 3])
    assert found._on([grouping], [1, 3])[0] == pytest.approx(part.values[0], rel=1e-6)


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


@pytest.mark.parametrize("name", [name for name in variants(True) if name != SLOTS_FILLED])
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
    found = converter.refine(HALF, blocks, PartialDescent(steps=8, parts=parts, validate=False))
    assert sorted(found) == [1, 2]
    for index, layer in found.items():
        merged = converter.merged_layer(HALF, index)
        for name in ("q", "k", "v"):
            same = torch.allclose(getattr(layer, name), getattr(merged, name), rtol=1e-4, atol=1e-5)
            assert same is (name not in parts), (index, name)
            bias, was = getattr(layer, f"{name}_bias"), getattr(merged, f"{name}_bias")
            assert torch.equal(bias, was) is (name not in parts), (index, name)


def test_by_itself_every_layer_stands_on_the_parents_stream(parent: Parent, tmp_path: Path) -> None:
    """Then no layer mends what those below have done, and the errors on the text add up."""
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    own = logits_of(parent, blocks)
    runs = [way(Outputs(validate=False))(converter, HALF, blocks, 4) for way in (by_itself, refined)]
    errors = [float((run(blocks.ids, blocks.mask) - own).square().mean()) for run in runs]
    assert errors[0] > errors[1]
    first = Grouping((LayerGrouping.singletons(6), HALF.layers[1], LayerGrouping.singletons(6)))
    one, other = (
        way(Outputs(validate=False))(converter, first, blocks, 4)(blocks.ids, blocks.mask)
        for way in (by_itself, refined)
    )
    assert torch.equal(one, other)


def stream_after(parent: Parent, index: int, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What leaves a decoder layer, (B, T, D)."""
    with torch.no_grad():
        out = parent.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    return out.hidden_states[index + 1]


def test_mlps_are_the_ridge_regression_to_the_parents_stream(tmp_path: Path) -> None:
    """Against least squares with the ridge as added rows, for the first converted block."""
    parent = tiny_parent("llama", layers=3)
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent, padded=True)
    tied = tie_heads(converter.merged_layer(HALF, 1), HALF.layers[1], 1)
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


def test_guards_change_nothing_where_they_are_off_and_keep_the_best_of_what_they_saw(
    parent: Parent, tmp_path: Path
) -> None:
    converter, blocks = converter_of(parent, tmp_path), blocks_of(parent)
    plain, off, stuck = (
        converter.refine(HALF, blocks, refinement)
        for refinement in (
            Descent(steps=8, validate=False),
            GuardedDescent(steps=8, validate=False),
            GuardedDescent(steps=8, pull=1.0, validate=False),
        )
    )
    start = {index: converter.merged_layer(HALF, index) for index in plain}
    for index in plain:
        assert torch.equal(plain[index].q, off[index].q)
        assert torch.allclose(stuck[index].q, start[index].q, atol=1e-2)
        assert not torch.allclose(plain[index].q, start[index].q, atol=1e-2)
    wild = GuardedDescent(steps=8, learning_rate=50.0, stop_early=True, validate=False)  # every step makes it worse
    held = converter.refine(HALF, blocks, wild)
    assert all(torch.allclose(held[index].q, start[index].q, rtol=1e-4, atol=1e-5) for index in held)

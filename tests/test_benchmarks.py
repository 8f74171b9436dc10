"""The committed results are whole, and can be shown; a quick measurement of what is cheap runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from experiments.benchmarks import conversion, decode, speed, splits, workers
from experiments.benchmarks.instances import KINDS, Instance
from experiments.benchmarks.search import RESULTS, SECTIONS
from gqasearch.errors import UserError
from gqasearch.pairwise import pairwise_errors


@pytest.mark.parametrize("section", SECTIONS)
def test_committed_results_can_be_shown(section: str) -> None:
    rows = pd.read_csv(RESULTS / f"{section}.csv")
    table = SECTIONS[section][1](rows)
    assert len(table) and not table.columns.duplicated().any()


def test_bounds_of_the_committed_proofs_hold_at_the_values() -> None:
    rows = pd.read_csv(RESULTS / "proofs.csv")
    assert (rows["lower_bound"] <= rows["value"]).all() and len(rows) == 768
    assert (rows["proven"] == ((rows["value"] - rows["lower_bound"]) <= 1e-9 * rows["value"])).all()


@pytest.mark.parametrize("kind", KINDS[:2])
def test_instances_are_the_same_every_time(kind: str) -> None:
    instance = Instance(kind, 16, 4, True, 0)
    table = instance.distances()
    assert table.shape == (16, 16) and (table == table.T).all() and not table.diagonal().any()
    assert (Instance(kind, 16, 4, False, 1).distances() != table).any()
    assert instance.budget.smallest_group == instance.budget.largest == 4


def test_quick_measurements_run() -> None:
    assert speed.measure(True)["relative difference"][0] < 1e-12
    found = splits.measure(True)
    assert (found["worst_gap"] >= 0).all() and (found["hypervolume_ratio"] <= 1 + 1e-12).all()


def test_decoding_is_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "RESULTS", tmp_path / "results" / "decode")
    monkeypatch.setattr("sys.argv", ["decode", "--shape", "tiny", "--rounds", "1", "--steps", "3"])
    decode.main()
    rows = decode.committed()["cpu.csv"]
    assert len(rows) == 2 * len(decode.KINDS) and (rows["tokens/s"] > 0).all()
    # Keys and values of 2 layers, heads of 8 in float32, 32 tokens and 3 more; all but the first keep half of 8 heads.
    expected = {kind: 2 * 2 * (8 if kind == "mha" else 4) * 8 * 4 * 35 / 1e6 for kind in decode.KINDS}
    for _, row in rows.iterrows():
        assert row["KV MB"] == pytest.approx(row["batch"] * expected[row["kind"]])
    assert (rows[rows["kind"] == "uniform"]["speed / uniform"] == 1).all()
    # One kind again: its rows alone are new, and all stand where they did.
    monkeypatch.setattr("sys.argv", ["decode", "--shape", "tiny", "--rounds", "2", "--steps", "3", "--kinds", "apart"])
    decode.main()
    again = decode.committed()["cpu.csv"]
    assert again[["context", "batch", "kind"]].equals(rows[["context", "batch", "kind"]])
    new = again["kind"] == "apart"
    assert (again["rounds"] == new + 1).all() and again[~new].equals(rows[~new])


def test_queries_apart_read_two_partitions_of_the_shapes_sizes() -> None:
    for shape in decode.SHAPES.values():
        for side in (0, 1):
            read = [sum(pair[2] for pair in shape.pairs if pair[side] == head) for head in range(shape.groups)]
            assert tuple(read) == shape.sizes
        assert len({pair[:2] for pair in shape.pairs}) == len(shape.pairs) > shape.groups


def test_results_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "RESULTS", tmp_path)
    with pytest.raises(UserError, match="holds no results yet"):
        decode.committed()


@pytest.mark.nightly
def test_a_conversion_is_measured() -> None:
    rows = conversion.measure(True)
    assert rows["merge"].tolist() == ["mean", "medoid"] and (rows["equal tensors"] > 0).all()
    committed = conversion.summary(pd.read_csv(conversion.RESULTS / "conversion.csv"))
    assert (committed["added at the peak, MB"] <= 300).all() and (committed["ratio with fingerprint"] <= 2).all()


def test_the_baseline_of_speed_computes_the_same_error() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    heads, labels = rng.normal(size=(6, 10)), np.array([0, 1, 0, 2, 2, 0])
    distances = ((heads[:, None] - heads) ** 2).sum(-1)
    assert speed.weight_sharing_error(heads, labels) == pytest.approx(pairwise_errors(distances, labels[None])[0])


def test_committed_workers_have_the_bits_of_one_process() -> None:
    total = workers.summary(pd.read_csv(workers.RESULTS / "workers.csv")).iloc[0]
    assert total["evaluations"] == 200
    assert all(total[f"equal, {which}"] == 200 for which in ("plain", "Ray", "killed"))
    assert total["Ray / plain"] <= 1.10

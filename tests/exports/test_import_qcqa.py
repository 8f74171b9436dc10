"""Results of the public QCQA reproduction, written as its expt.py writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from gqasearch.errors import UserError
from gqasearch.exports import import_grouping
from tests.exports.samples import document_of, model_of, rows


def write_qcqa(folder: Path, fronts: list[list[list[int]]], errors: list[list[float]]) -> None:
    """``fronts``: of every layer the labels of its candidates; written in the way of the reproduction's expt.py."""
    folder.mkdir(exist_ok=True)
    for layer, (front, wse) in enumerate(zip(fronts, errors, strict=True)):
        labels = np.array(front)
        cache = [len(set(candidate)) / len(candidate) for candidate in front]
        values = np.concatenate([labels, np.column_stack([cache, wse])], axis=1)
        columns = [f"L{layer}H{head}" for head in range(labels.shape[1])] + ["KV Cache", "WSE"]
        pd.DataFrame(values, columns=columns).to_csv(folder / f"algo1_result_layer_{layer}.csv", index=False)


FRONTS = [[[0, 0, 0, 0], [3, 1, 3, 1], [1, 2, 2, 1]], [[0, 0, 0, 0], [0, 1, 2, 3], [5, 5, 5, 1]]]
ERRORS = [[0.5, 0.2, 0.3], [0.1, 0.4, 0.3]]


@pytest.fixture
def qcqa(tmp_path: Path) -> Path:
    folder = tmp_path / "qcqa"
    write_qcqa(folder, FRONTS, ERRORS)
    grouped = pd.DataFrame([[1.0, 1.0, 0.4, 0.3], [1.0, 0.0, 0.75, 0.2]], columns=["L0", "L1", "KV Cache", "WSE"])
    grouped.to_csv(folder / "algo2_result.csv", index=False)
    return folder


@given(labels=rows)
def test_results_of_qcqa_come_back(labels: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    document = document_of(labels)
    folder = tmp_path_factory.mktemp("qcqa")
    write_qcqa(folder, [[row] for row in labels], [[0.5]] * len(labels))
    assert import_grouping(folder, "qcqa", document.model) == document


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0, 1, 0, 1], [0, 0, 0, 0]]),
        ({"kv_heads": 2}, [[0, 1, 0, 1], [0, 0, 0, 1]]),
        ({"row": 0}, [[0, 1, 0, 1], [0, 0, 0, 0]]),
        ({"row": 1}, [[0, 1, 0, 1], [0, 1, 2, 3]]),
    ],
)
def test_candidates_of_qcqa(qcqa: Path, options: dict[str, int], expected: list[list[int]]) -> None:
    found = import_grouping(qcqa, "qcqa", model_of(2, 4), **options)
    assert [list(layer.labels) for layer in found.grouping] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_heads": 3}, r"layer_0.csv: no candidate has 3 groups; there are 1, 2"),
        ({"row": 2}, r"algo2_result.csv: has no row 2; rows are 0 to 1"),
        ({"row": -1}, r"algo2_result.csv: has no row -1"),
        ({"row": 0, "kv_heads": 2}, r"--kv-heads and --row exclude each other"),
    ],
)
def test_wrong_choices_of_qcqa(qcqa: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_grouping(qcqa, "qcqa", model_of(2, 4), **options)


HEADER = "L1H0,L1H1,L1H2,L1H3,KV Cache,WSE\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("algo1_result_layer_1.csv", None, r"cannot read .*layer_1.csv: No such file"),
        ("algo1_result_layer_2.csv", "", r"layer_2.csv: the model has layers 0 to 1"),
        ("algo1_result_layer_1.csv", "", r"columns must be L1H0 to L1H3, KV Cache, WSE, for the model's 4 heads"),
        ("algo1_result_layer_1.csv", "L1H0,L1H1,KV Cache,WSE\n0,0,1,1\n", r"4 heads; there are 2 of heads: L1H0, L1H1"),
        ("algo1_result_layer_1.csv", HEADER, r"layer_1.csv: has no candidates"),
        (
            "algo1_result_layer_1.csv",
            HEADER + "0,0,0,0,1,1\n0,0,0.5,0,1,1\n",
            r"line 3: must be 4 integers and 2 numbers",
        ),
        (
            "algo1_result_layer_1.csv",
            HEADER + "0,0,x,0,1,1\n",
            r"line 2: must be 4 integers and 2 numbers, is '0,0,x,0",
        ),
        ("algo1_result_layer_1.csv", HEADER + "0,0,0,0,1\n", r"line 2: must be 4 integers and 2 numbers"),
        ("algo1_result_layer_1.csv", HEADER + "0,0,0,0,1,nan\n", r"line 2: WSE must be a finite number, is 'nan'"),
        ("algo1_result_layer_1.csv", HEADER + "0,0,0,0,1,\n", r"line 2: WSE must be a finite number, is ''"),
        ("algo2_result.csv", "L0,L1,KV Cache,WSE\n1,2,1,1\n", r"row 0: layers must be 0 or 1, are \[1, 2\]"),
        ("algo2_result.csv", "L0,KV Cache,WSE\n1,1,1\n", r"L0 to L1, .*model's 2 layers; there are 1 of layers"),
    ],
)
def test_wrong_results_of_qcqa(qcqa: Path, name: str, text: str | None, message: str) -> None:
    (qcqa / name).unlink(missing_ok=True)
    if text is not None:
        (qcqa / name).write_text(text)
    with pytest.raises(UserError, match=message):
        import_grouping(qcqa, "qcqa", model_of(2, 4), **({"row": 0} if name.startswith("algo2") else {}))

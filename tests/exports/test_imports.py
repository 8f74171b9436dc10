"""Groupings of other tools come back as they were, or are refused with the place that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gqasearch.cli.app import app
from gqasearch.errors import UserError
from gqasearch.exports import EXPORTS, IMPORTS, export, import_grouping
from gqasearch.grouping_document import read_grouping
from tests.exports.samples import document_of, model_of, rows
from tests.tiny_models import save_checkpoint, tiny_model

ROUND_TRIPS = sorted(EXPORTS.keys() & IMPORTS.keys())


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imports")


def test_every_format_that_is_read_is_tested() -> None:
    assert ROUND_TRIPS == ["head-clusters", "head-map", "labels-csv", "npz"]
    assert IMPORTS.keys() - EXPORTS.keys() == {"qcqa"}  # test_import_qcqa.py writes it


@pytest.mark.parametrize("form", ROUND_TRIPS)
@given(labels=rows, queries_per_kv=st.integers(1, 3))
def test_what_is_exported_comes_back(form: str, labels: list[list[int]], queries_per_kv: int, scratch: Path) -> None:
    document = document_of(labels, queries_per_kv)
    path = scratch / form
    path.write_bytes(export(document, form))
    assert import_grouping(path, form, document.model) == document


@given(labels=rows, order=st.randoms(use_true_random=False))
def test_labels_come_back_in_any_order_of_rows(labels: list[list[int]], order: Any, scratch: Path) -> None:
    document = document_of(labels)
    header, *lines = export(document, "labels-csv").decode().splitlines()
    order.shuffle(lines)
    path = scratch / "labels.csv"
    path.write_text("\n".join([header, *lines]))
    assert import_grouping(path, "labels-csv", document.model) == document


@given(labels=rows, order=st.randoms(use_true_random=False), as_folder=st.booleans())
def test_clusters_come_back_in_any_order(
    labels: list[list[int]], order: Any, as_folder: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As CHAI writes them, a file per layer, and as an object."""
    document = document_of(labels)
    layers = [[order.sample(group, len(group)) for group in layer.groups] for layer in document.grouping]
    for layer in layers:
        order.shuffle(layer)
    folder = tmp_path_factory.mktemp("clusters")
    path = folder if as_folder else folder / "clusters.json"
    if as_folder:
        for index, layer in enumerate(layers):
            (folder / f"layer_{index}_out_cluster.json").write_text(json.dumps(layer))
    else:
        items = list(enumerate(layers))
        order.shuffle(items)
        path.write_text(json.dumps({str(index): layer for index, layer in items}))
    assert import_grouping(path, "head-clusters", document.model) == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be layer,head,group"),
        ("layer,head\n0,0\n", "the first line must be layer,head,group, is 'layer,head'"),
        ("layer,head,group\n", "has 0 layers, the model has 2"),
        ("layer,head,group\n0,0,a\n", "line 2: must be three integers"),
        ("layer,head,group\n0,0,0\n0,1\n", "line 3: must be three integers"),
        ("layer,head,group\n0,-1,0\n", "line 2: must be three integers"),
        ("layer,head,group\n\n0,0,0\n", "line 2: must be three integers"),
        ("layer,head,group\n0,0,0\n0,0,1\n", "line 3: head 0 of layer 0 was given before"),
        ("layer,head,group\n0,0,0\n0,2,1\n", "layer 0: head 1 is missing"),
        ("layer,head,group\n1,0,0\n1,1,1\n", "layer 0 is missing"),
        ("layer,head,group\n0,0,0\n999999999999,0,1\n", "line 3: layer 999999999999; the model has layers 0 to 1"),
        ("layer,head,group\n0,0,0\n0,1,0\n1,0,0\n", "layer 1 groups 1 heads, the model has 2 KV heads"),
        ("layer,head,group\n0,0,0\n0,1,0\n", "has 1 layers, the model has 2"),
    ],
)
def test_wrong_labels_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"labels.csv: .*{message}"):
        import_grouping(path, "labels-csv", model_of(2, 2))


@pytest.mark.parametrize(
    ("form", "value", "message"),
    [
        ("head-clusters", [[[0], [1]]], "has 1 layers, the model has 2"),
        ("head-clusters", [[[0], [1]], [[0, 1, 1]]], r"layer 1: heads \[1\] stand in more than one group"),
        ("head-clusters", [[[0]], [[0, 1]]], r"layer 0: heads \[1\] stand in no group.* 2 KV heads"),
        ("head-clusters", [[[0, 1]], [[0, 1, 2, 3]]], r"layer 1: heads \[2, 3\] are outside 0..1"),
        ("head-clusters", [[[0, 1]], [[0, 1], []]], r"layer 1: group 1 is empty"),
        ("head-clusters", [[[0, 1]], [0, 1]], r"layer 1 must be a list of lists of heads, is \[0, 1\]"),
        ("head-clusters", [[[0, 1]], [[0, True]]], r"layer 1 must be a list of lists of heads"),
        ("head-clusters", {"0": [[0, 1]], "2": [[0, 1]]}, r"layer 1 is missing; keys are \['0', '2'\]"),
        ("head-clusters", 3, "must hold a list of layers or an object of layers, holds 3"),
        ("head-map", {"map": []}, "head_map must be a list with an entry per layer, is NoneType"),
        ("head-map", {"head_map": [[0, 0, 1, 1]]}, "has 1 layers, the model has 2"),
        ("head-map", {"head_map": [[0, 0, 1, 1], [0, 1]]}, "layer 1 has 2 query heads, the model has 4"),
        ("head-map", {"head_map": [[0, 0, 1, 1], [0, 0, 1, 1.0]]}, "layer 1: head_map must be a list of integers"),
        (
            "head-map",
            {"head_map": [[0, 0, 1, 1], [0, 0, 0, 1]]},
            r"layer 1: query heads 2 to 3 share KV head 1 .*\[0, 1\]",
        ),
    ],
)
def test_wrong_json_is_refused(form: str, value: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "given.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=rf"given.json: {message}"):
        import_grouping(path, form, model_of(2, 2, queries_per_kv=2))


def test_wrong_files_of_chai_are_refused(tmp_path: Path) -> None:
    (tmp_path / "layer_0_out_cluster.json").write_text("[[0, 1]]")
    with pytest.raises(UserError, match=r"cannot read .*layer_1_out_cluster.json"):
        import_grouping(tmp_path, "head-clusters", model_of(2, 2))
    (tmp_path / "layer_1_out_cluster.json").write_text("[[0], [0, 1]]")  # its vote can put a head into two
    with pytest.raises(UserError, match=r"layer_1_out_cluster.json: layer 1: heads \[0\] stand in more than one"):
        import_grouping(tmp_path, "head-clusters", model_of(2, 2))
    with pytest.raises(UserError, match=r"layer_1_out_cluster.json: the model has layers 0 to 0"):
        import_grouping(tmp_path, "head-clusters", model_of(1, 2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.zeros((2, 2), int)}, "holds no array 'labels'"),
        ({"labels": np.zeros((2, 2))}, r"must be integers \(layers, heads\), are float64 \(2, 2\)"),
        ({"labels": np.zeros(4, int)}, r"must be integers \(layers, heads\), are int64 \(4,\)"),
        ({"labels": np.zeros((2, 0), int)}, "no heads"),
        ({"labels": np.zeros((3, 2), int)}, "has 3 layers, the model has 2"),
        ({"labels": np.zeros((2, 4), int)}, "layer 0 groups 4 heads, the model has 2 KV heads .*query heads"),
        ({"labels": np.array([[0, None], [0, 0]])}, "no NumPy archive without pickles"),
    ],
)
def test_wrong_archives_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "labels.npz", **arrays)
    with pytest.raises(UserError, match=rf"labels.npz.* {message}"):
        import_grouping(tmp_path / "labels.npz", "npz", model_of(2, 2, queries_per_kv=2))


@pytest.mark.parametrize("form", sorted(IMPORTS))
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"PK\x03\x04", b"[" * 100_000])
def test_files_of_another_kind_are_refused(form: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match="file"):
        import_grouping(tmp_path / "file", form, model_of(2, 2))


def test_npy_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.zeros((2, 2), int))
    with pytest.raises(UserError, match="no NumPy archive"):
        import_grouping(tmp_path / "labels.npy", "npz", model_of(2, 2))
    with pytest.raises(UserError, match="unknown import format 'chai'"):
        import_grouping(tmp_path, "chai", model_of(2, 2))
    with pytest.raises(UserError, match="format npz takes no --kv-heads"):
        import_grouping(tmp_path, "npz", model_of(2, 2), kv_heads=2)


def test_an_imported_grouping_is_materialized_and_evaluated(tmp_path: Path) -> None:
    """From CHAI's folder to figures, through the command line."""
    checkpoint = save_checkpoint(tiny_model("llama"), tmp_path / "model")
    (tmp_path / "chai").mkdir()
    for layer in range(2):
        (tmp_path / "chai" / f"layer_{layer}_out_cluster.json").write_text("[[0, 3], [2, 5], [1, 4]]")

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    path, out = tmp_path / "grouping.json", tmp_path / "out"
    given = ("import", tmp_path / "chai", "--format", "head-clusters", "--model", checkpoint, "-o", path)
    assert json.loads(call(*given, "--json"))["kv_heads_total"] == 6
    again = CliRunner().invoke(app, [str(argument) for argument in given])
    assert again.exit_code == 2 and "exists already" in again.stderr
    assert "2 layers of 6 heads, 6 KV heads, ratio 0.5" in call(*given, "--overwrite")
    assert read_grouping(path).model.fingerprint.startswith("sha256:")
    call("validate", path, "--model", checkpoint)
    call("materialize", path, "--model", checkpoint, "--merge", "mean", "--output-dir", out)
    assert json.loads((out / "config.json").read_text())["num_key_value_heads"] == 3
    tokens = ("--evaluation-tokens", "128", "--block-length", "32")
    figures = json.loads(call("evaluate", out, "--parent", checkpoint, *tokens, "--json"))
    assert figures["results"]["converted"]["kl"] > 0

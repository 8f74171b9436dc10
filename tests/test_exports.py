"""Exports say what the grouping says; labels come back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.errors import UserError
from gqasearch.exports import EXPORTS, export, head_map, read_labels_csv
from gqasearch.grouping import Grouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord, ModelRecord

GROUPING = Grouping.from_labels([[0, 1, 0], [2, 2, 1]])


def _document(grouping: Grouping = GROUPING, queries_per_kv: int = 2) -> GroupingDocument:
    heads = grouping.num_heads
    model = ModelRecord("m", "LlamaForCausalLM", len(grouping), heads * queries_per_kv, heads, 8)
    return GroupingDocument(model, tuple(LayerRecord(layer) for layer in grouping))


def test_labels_csv() -> None:
    assert export(_document(), "labels-csv") == b"layer,head,group\n0,0,0\n0,1,1\n0,2,0\n1,0,0\n1,1,0\n1,2,1\n"


def test_head_map_counts_query_heads() -> None:
    data = json.loads(export(_document(), "head-map"))
    assert data == {
        "num_key_value_heads_per_layer": [2, 2],
        "head_map": [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]],
    }
    assert head_map(_document(queries_per_kv=1)) == [[0, 1, 0], [0, 0, 1]]


def test_kv_heads_per_layer() -> None:
    grouping = Grouping.from_labels([[0, 1, 2], [0, 0, 0]])
    assert json.loads(export(_document(grouping), "kv-heads-per-layer")) == {"num_key_value_heads_per_layer": [3, 1]}


def test_npz_needs_no_pickles() -> None:
    with np.load(io.BytesIO(export(_document(), "npz")), allow_pickle=False) as arrays:
        assert arrays["labels"].tolist() == [[0, 1, 0], [0, 0, 1]]
        assert arrays["head_map"].tolist() == head_map(_document())
        assert arrays["kv_heads_per_layer"].tolist() == [2, 2]


@pytest.mark.parametrize("form", EXPORTS)
def test_same_bytes_every_time(form: str) -> None:
    assert export(_document(), form) == export(_document(), form)


def test_unknown_format_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown export format 'labels_csv'; did you mean 'labels-csv'"):
        export(_document(), "labels_csv")


rows = st.integers(1, 6).flatmap(
    lambda heads: st.lists(st.lists(st.integers(0, 5), min_size=heads, max_size=heads), min_size=1, max_size=4)
)


@given(labels=rows, order=st.randoms(use_true_random=False))
def test_labels_come_back_in_any_order_of_rows(labels: list[list[int]], order: Any, tmp_path_factory: Any) -> None:
    grouping = Grouping.from_labels(labels)
    header, *lines = export(_document(grouping), "labels-csv").decode().splitlines()
    order.shuffle(lines)
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    path.write_text("\n".join([header, *lines]))
    assert read_labels_csv(path) == grouping


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be layer,head,group"),
        ("layer,head\n0,0\n", "the first line must be layer,head,group"),
        ("layer,head,group\n", "at least one layer"),
        ("layer,head,group\n0,0,a\n", "line 2: must be three integers"),
        ("layer,head,group\n0,0,0\n0,1\n", "line 3: must be three integers"),
        ("layer,head,group\n0,-1,0\n", "line 2: must be three integers"),
        ("layer,head,group\n\n0,0,0\n", "line 2: must be three integers"),
        ("layer,head,group\n0,0,0\n0,0,1\n", "line 3: head 0 of layer 0 was given before"),
        ("layer,head,group\n0,0,0\n0,2,1\n", "layer 0: head 1 is missing"),
        ("layer,head,group\n0,0,0\n999999999999,0,1\n", "layer 1 is missing"),
        ("layer,head,group\n0,0,0\n1,0,0\n1,1,0\n", "layers differ in their number of heads"),
    ],
)
def test_wrong_labels_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"labels.csv: .*{message}"):
        read_labels_csv(path)


def test_unreadable_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none.csv: No such file"):
        read_labels_csv(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no CSV"):
        read_labels_csv(tmp_path / "binary.csv")

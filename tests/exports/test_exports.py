"""Exports say what the grouping says."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from gqasearch.errors import UserError
from gqasearch.exports import EXPORTS, export, grouping_frame, head_map
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


def test_block_configs_say_heads_that_every_layer_can_share_out() -> None:
    """As vLLM reads them: num_attention_heads // n_heads_in_group KV heads."""
    equal = Grouping.from_labels([[0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 0, 0]])
    data = json.loads(export(_document(equal), "block-configs"))
    assert data["num_attention_heads"] == 8  # the source's, nothing is padded
    read = [data["num_attention_heads"] // block["attention"]["n_heads_in_group"] for block in data["block_configs"]]
    assert read == [2, 4, 1]
    unequal = Grouping.from_labels([[0, 0, 0, 1], [0, 1, 2, 2]])
    data = json.loads(export(_document(unequal), "block-configs"))
    assert data["num_attention_heads"] == 12  # room for two groups of three heads, and divisible by three
    assert [block["attention"]["n_heads_in_group"] for block in data["block_configs"]] == [6, 4]
    assert not any(block["attention"]["no_op"] for block in data["block_configs"])


def test_head_clusters() -> None:
    assert json.loads(export(_document(), "head-clusters")) == [[[0, 2], [1]], [[0, 1], [2]]]


def test_frame_has_a_row_per_head() -> None:
    frame = grouping_frame(_with_errors())
    assert frame[["layer", "head", "group"]].to_numpy().tolist() == [
        [layer, head, group] for layer, row in enumerate([[0, 1, 0], [0, 0, 1]]) for head, group in enumerate(row)
    ]
    assert frame["first_query_head"].tolist() == [0, 2, 4] * 2 and set(frame["query_heads"]) == {2}
    assert frame["group_size"].tolist() == [2, 1, 2, 2, 2, 1]
    assert frame["layer_error"].isna().tolist() == [False] * 3 + [True] * 3
    assert frame["proven_optimal"].tolist()[0] is False and frame["proven_optimal"].isna().sum() == 3
    assert (
        frame.groupby("layer")["group"].nunique().tolist()
        == [2, 2]
        == frame.groupby("layer")["layer_groups"].first().tolist()
    )


def test_frames_as_text_hold_the_same_figures() -> None:
    document = _with_errors()
    frame = grouping_frame(document)
    table = pd.read_csv(io.BytesIO(export(document, "frame-csv")), dtype={"proven_optimal": "boolean"})
    pd.testing.assert_frame_equal(table, frame, rtol=0.0, atol=0.0)
    records = json.loads(export(document, "frame-json"))
    assert records[0] | {"layer_error": 0.1 + 0.2, "layer_lower_bound": None, "proven_optimal": False} == records[0]
    assert records[-1]["layer_error"] is None and records[-1]["group"] == 1
    assert [list(record) for record in records] == [list(frame.columns)] * 6


def _with_errors() -> GroupingDocument:
    document = _document()
    first = replace(document.layers[0], error=0.1 + 0.2, proven_optimal=False)
    return replace(document, layers=(first, document.layers[1]))

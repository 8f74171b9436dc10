"""Grouping JSON: what is written comes back; what is wrong is refused with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, GroupingError, LayerGrouping
from gqasearch.grouping_document import (
    CalibrationRecord,
    FitnessRecord,
    GroupingDocument,
    LayerRecord,
    MergeRecord,
    ModelRecord,
    RefinementRecord,
    SearchRecord,
    grouping_schema,
    read_grouping,
    write_grouping,
)
from gqasearch.grouping_fit import check_fits
from gqasearch.models import HeadGeometry
from gqasearch.separate_grouping import SeparateGrouping

FINGERPRINT = "sha256:" + "0123456789abcdef" * 4
GROUPING = Grouping.from_labels([[0, 1, 0, 2], [0, 0, 0, 0], [0, 1, 1, 0]])
GEOMETRY = HeadGeometry(3, 8, 4, 16, 128, 16)


def _model(layers: int = 3, heads: int = 4, queries_per_kv: int = 2) -> ModelRecord:
    return ModelRecord(
        "org/model", "LlamaForCausalLM", layers, heads * queries_per_kv, heads, 16, "main", FINGERPRINT
    )  # fmt: skip


def _full() -> GroupingDocument:
    return GroupingDocument(
        _model(),
        (
            LayerRecord(GROUPING.layers[0], 0.12, True, 0.12),
            LayerRecord(GROUPING.layers[1], 1e-300, False),
            LayerRecord(GROUPING.layers[2]),
        ),
        merge=MergeRecord("weighted-mean", {"by": "key-norm"}),
        refinement=RefinementRecord("descent", {"steps": 80}),
        fitness=FitnessRecord("merge-error", 1.9, {"layer_weighted": True}),
        search=SearchRecord("evolution", 0, 12000, {"population": 64, "note": "é"}),
        calibration=CalibrationRecord("standard library", 32768, FINGERPRINT),
    )


def _raw(change: Callable[[dict[str, Any]], object] = lambda data: None) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(_full().to_json())
    change(data)
    return data


def _read(tmp_path: Path, content: object) -> GroupingDocument:
    path = tmp_path / "grouping.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_grouping(path)


# There and back


def test_written_and_read_again_is_equal(tmp_path: Path) -> None:
    write_grouping(tmp_path / "grouping.json", _full())
    assert read_grouping(tmp_path / "grouping.json") == _full()
    assert read_grouping(tmp_path / "grouping.json").grouping == GROUPING


def test_parts_that_do_not_apply_are_left_out(tmp_path: Path) -> None:
    document = GroupingDocument(_model(), tuple(LayerRecord(layer) for layer in GROUPING))
    data = json.loads(document.to_json())
    assert set(data) == {"format", "version", "model", "layers", "kv_heads_total", "kv_ratio", "created_by"}
    assert data["layers"][0] == {"groups": [[0, 2], [1], [3]]}
    assert (data["kv_heads_total"], data["kv_ratio"]) == (6, 0.5)
    assert _read(tmp_path, data) == document


# Keys and values grouped apart: version 2


def _apart() -> GroupingDocument:
    keys, values = (LayerGrouping.from_labels(labels) for labels in ([0, 1, 0, 2], [0, 1, 1, 1]))
    sides = [LayerRecord(keys, 0.5, True, 0.5), LayerRecord(values, 0.25)] * 3
    return GroupingDocument(_model(), tuple(sides), separate_kv=True)


def test_two_partitions_of_a_layer_are_version_2(tmp_path: Path) -> None:
    document = _apart()
    write_grouping(tmp_path / "grouping.json", document)
    data = json.loads((tmp_path / "grouping.json").read_text())
    assert data["version"] == 2 and len(data["layers"]) == 3
    assert data["layers"][1] == {
        "keys": {"groups": [[0, 2], [1], [3]], "error": 0.5, "proven_optimal": True, "lower_bound": 0.5},
        "values": {"groups": [[0], [1, 2, 3]], "error": 0.25},
    }
    assert (data["kv_heads_total"], data["kv_ratio"]) == (3 * (3 + 2), 15 / 24)
    again = read_grouping(tmp_path / "grouping.json")
    assert again == document and isinstance(again.partitions, SeparateGrouping)
    assert again.partitions.layers[2].values.groups == ((0,), (1, 2, 3))
    assert again.layer_names[:3] == ["0 keys", "0 values", "1 keys"]
    jsonschema.Draft202012Validator(grouping_schema()).validate(data)


def test_who_takes_one_partition_is_told_that_there_are_two() -> None:
    with pytest.raises(UserError, match=r"keys and values grouped apart \(--separate-kv\)"):
        _ = _apart().grouping
    assert _full().partitions == _full().grouping == GROUPING and json.loads(_full().to_json())["version"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["layers"][1].pop("values"), r"layers\[1\]: 'values' is a required property"),
        (lambda data: data.update(layers=data["layers"][:2]), "model: 2 layers given, num_layers is 3"),
        (lambda data: data["layers"][0]["keys"].update(groups=[[0, 1], [3]]), r"layers\[0\].keys.groups: heads \[2\]"),
        (lambda data: data["layers"][2]["values"].update(groups=[]), r"layers\[2\].values.groups: must not be empty"),
        (lambda data: data.update(kv_heads_total=12), "kv_heads_total: is 12, the layers have 15 groups"),
        (lambda data: data.update(join=2), "model: join is 2: joined heads hold keys and values of one group"),
        (lambda data: data.update(version=1), r"layers\[0\]: 'groups' is a required property"),
    ],
)
def test_wrong_content_of_version_2_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    data = json.loads(_apart().to_json())
    change(data)
    with pytest.raises(UserError, match=message):
        _read(tmp_path, data)


rows = st.integers(1, 8).flatmap(
    lambda heads: st.lists(st.lists(st.integers(0, 7), min_size=heads, max_size=heads), min_size=1, max_size=4)
)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(labels=rows, queries_per_kv=st.integers(1, 4), errors=st.lists(numbers, min_size=4, max_size=4), text=st.text())
def test_round_trip_of_any_document(
    labels: list[list[int]], queries_per_kv: int, errors: list[float | None], text: str, tmp_path_factory: Any
) -> None:
    grouping = Grouping.from_labels(labels)
    layers = tuple(LayerRecord(layer, error) for layer, error in zip(grouping, errors, strict=False))
    document = GroupingDocument(
        _model(len(grouping), grouping.num_heads, queries_per_kv),
        layers,
        search=SearchRecord(text, 3, 4, {text: [text, None]}),
    )
    path = tmp_path_factory.getbasetemp() / "round.json"
    write_grouping(path, document, overwrite=True)
    again = read_grouping(path)
    assert again == document
    assert again.to_json() == document.to_json()


def test_same_document_same_bytes_whatever_the_order_of_groups(tmp_path: Path) -> None:
    shuffled = _raw(lambda data: data["layers"][0].update(groups=[[3], [2, 0], [1]]))
    assert _read(tmp_path, shuffled).to_json() == _full().to_json()
    assert _full().to_json().endswith("}\n")


def test_published_schema_is_a_schema_and_accepts_what_is_written() -> None:
    jsonschema.Draft202012Validator.check_schema(grouping_schema())
    jsonschema.Draft202012Validator(grouping_schema()).validate(_raw())


def test_what_other_tools_add_is_ignored(tmp_path: Path) -> None:
    def add(data: dict[str, Any]) -> None:
        data["comment"] = data["model"]["nickname"] = data["layers"][1]["colour"] = data["search"]["host"] = "x"
        data["model"]["num_layers"] = 3.0  # an integer in JSON

    assert _read(tmp_path, _raw(add)).to_json() == _full().to_json()


def test_rounded_ratio_is_accepted(tmp_path: Path) -> None:
    document = GroupingDocument(_model(1, 3), (LayerRecord(LayerGrouping.singletons(3)),))
    data = json.loads(document.to_json()) | {"layers": [{"groups": [[0, 1, 2]]}], "kv_heads_total": 1}
    assert _read(tmp_path, data | {"kv_ratio": 0.3333333}).grouping.kv_heads_total == 1
    with pytest.raises(UserError, match=r"kv_ratio: is 0.33, the layers give 0.333333"):
        _read(tmp_path, data | {"kv_ratio": 0.33})


# Refusals


def _set(*path: str | int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("format", value="qcqa"), r"format: must be 'gqasearch-grouping', is 'qcqa'"),
        (lambda data: data.pop("format"), r"format: must be 'gqasearch-grouping', is None"),
        (_set("version", value=3), r"version: is 3; this gqasearch reads versions 1 and 2"),
        (_set("version", value="1"), r"version: is '1'"),
        (_set("version", value=True), r"version: "),
        (lambda data: data.pop("layers"), r"top level: 'layers' is a required property"),
        (lambda data: data["model"].pop("num_layers"), r"model: 'num_layers' is a required property"),
        (_set("model", value=[]), r"model: must be of type object, is \[\]"),
        (_set("model", "num_layers", value="3"), r"model.num_layers: must be of type integer, is '3'"),
        (_set("model", "num_layers", value=0), r"model.num_layers: 0 is less than the minimum of 1"),
        (_set("model", "num_key_value_heads", value=10**12), r"model.num_key_value_heads: .*maximum"),
        (_set("model", "fingerprint", value="sha256:12"), r"model.fingerprint: 'sha256:12' does not match"),
        (_set("layers", value=[]), r"layers: must not be empty"),
        (_set("layers", 1, value={}), r"layers\[1\]: 'groups' is a required property"),
        (_set("layers", 1, "groups", value=[]), r"layers\[1\].groups: must not be empty"),
        (_set("layers", 1, "groups", 0, value=[]), r"layers\[1\].groups\[0\]: must not be empty"),
        (
            _set("layers", 1, "groups", 0, 2, value="2"),
            r"layers\[1\].groups\[0\]\[2\]: must be of type integer, is '2'",
        ),
        (
            _set("layers", 1, "groups", 0, 2, value=1.5),
            r"layers\[1\].groups\[0\]\[2\]: must be of type integer, is 1.5",
        ),
        (_set("layers", 1, "groups", 0, 2, value=True), r"layers\[1\].groups\[0\]\[2\]: must be of type integer"),
        (_set("layers", 1, "groups", 0, 2, value=-1), r"layers\[1\].groups\[0\]\[2\]: -1 is less than the minimum"),
        (_set("layers", 1, "groups", value=[[0, 1], [1, 2, 3]]), r"layers\[1\].groups: heads \[1\] stand in more than"),
        (_set("layers", 1, "groups", value=[[0, 1], [3]]), r"layers\[1\].groups: heads \[2\] stand in no group"),
        (_set("layers", 1, "groups", value=[[0, 1, 2]]), r"layers\[1\].groups: heads \[3\] stand in no group"),
        (_set("layers", 1, "groups", value=[[0, 1, 2, 3, 4]]), r"layers\[1\].groups: heads \[4\] are outside 0..3"),
        (_set("layers", 1, "error", value="low"), r"layers\[1\].error: must be of type number, is 'low'"),
        (lambda data: data["layers"].pop(), r"model: 2 layers given, num_layers is 3"),
        (_set("model", "num_attention_heads", value=6), r"num_key_value_heads=4 does not divide num_attention_heads=6"),
        (_set("kv_heads_total", value=7), r"kv_heads_total: is 7, the layers have 6 groups"),
        (_set("kv_ratio", value=0.25), r"kv_ratio: is 0.25, the layers give 0.5"),
        (_set("kv_ratio", value=2), r"kv_ratio: 2 is greater than the maximum of 1"),
        (lambda data: data["fitness"].pop("name"), r"fitness: 'name' is a required property"),
        (_set("search", "seed", value=-1), r"search.seed: -1 is less than"),
        (_set("merge", value="optimal"), r"merge: must be of type object, is 'optimal'"),
        (_set("refinement", value="descent"), r"refinement: must be of type object, is 'descent'"),
        (_set("refinement", value={"parameters": {}}), r"refinement: 'name' is a required property"),
    ],
)
def test_wrong_content_is_refused_with_its_place(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"grouping.json: .*" + message) as caught:
        _read(tmp_path, _raw(change))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ('{"format": ', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"format": "gqasearch-grouping", "kv_ratio": NaN}', "is not valid JSON: NaN is no finite number"),
        ('{"format": "gqasearch-grouping", "kv_ratio": 1e999}', "is not valid JSON: 1e999 is no finite number"),
    ],
)
def test_broken_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        _read(tmp_path, text)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none.json: No such file"):
        read_grouping(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"cannot read .*: Is a directory"):
        read_grouping(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_grouping(tmp_path / "binary.json")


def test_document_that_does_not_fit_its_own_model_cannot_be_made() -> None:
    with pytest.raises(GroupingError, match="3 layers given, num_layers is 2"):
        GroupingDocument(_model(layers=2), tuple(LayerRecord(layer) for layer in GROUPING))
    with pytest.raises(GroupingError, match="layers group 4 heads, num_key_value_heads is 5"):
        GroupingDocument(_model(heads=5), tuple(LayerRecord(layer) for layer in GROUPING))


# Writing


def test_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "grouping.json"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_grouping(path, _full())
    assert path.read_text() == "mine"
    write_grouping(path, _full(), overwrite=True)
    assert read_grouping(path) == _full()


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "grouping.json"
    path.write_text("old")
    request.getfixturevalue("full_disk")
    with pytest.raises(UserError, match=r"cannot write .*grouping.json: No space left on device"):
        write_grouping(path, _full(), overwrite=True)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["grouping.json"]


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*: No such file or directory"):
        write_grouping(tmp_path / "none" / "grouping.json", _full())


# Does it fit the model?


def test_fitting_model_is_accepted() -> None:
    check_fits(_full(), GEOMETRY, FINGERPRINT)
    check_fits(_full(), GEOMETRY, None)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (HeadGeometry(6, 8, 4, 16, 128, 16), "num_layers is 3 in the grouping, 6 in the model"),
        (HeadGeometry(3, 8, 8, 16, 128, 16), "num_key_value_heads is 4 in the grouping, 8 in the model"),
        (HeadGeometry(3, 4, 4, 16, 64, 16), "num_attention_heads is 8 in the grouping, 4 in the model"),
        (HeadGeometry(3, 8, 4, 32, 128, 32), "head_dim is 16 in the grouping, 32 in the model"),
    ],
)
def test_model_of_another_shape_is_refused(geometry: HeadGeometry, message: str) -> None:
    for fingerprint in (None, FINGERPRINT):
        with pytest.raises(UserError, match=rf"another model \(org/model\): {message}"):
            check_fits(_full(), geometry, fingerprint)


def test_other_weights_are_refused_unless_allowed() -> None:
    other = "sha256:" + "f" * 64
    own = FINGERPRINT.removeprefix("sha256:")[:12]
    with pytest.raises(UserError, match=rf"fingerprint {own} in the grouping, f{{12}} in the model; give the model"):
        check_fits(_full(), GEOMETRY, other)
    check_fits(_full(), GEOMETRY, None)

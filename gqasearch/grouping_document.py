"""The grouping JSON: a grouping, the model it belongs to, and how it was found.

Its JSON Schema is shipped beside this file (``grouping.schema.json``). A schema cannot say that
groups are a partition or that totals agree, so :func:`read_grouping` checks that too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jsonschema import Draft202012Validator, ValidationError

from gqasearch import __version__
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_file
from gqasearch.grouping import Grouping, GroupingError, LayerGrouping
from gqasearch.grouping_records import (
    CalibrationRecord as CalibrationRecord,
)
from gqasearch.grouping_records import (
    FitnessRecord as FitnessRecord,
)
from gqasearch.grouping_records import (
    LayerRecord as LayerRecord,
)
from gqasearch.grouping_records import (
    MergeRecord as MergeRecord,
)
from gqasearch.grouping_records import (
    ModelRecord as ModelRecord,
)
from gqasearch.grouping_records import (
    RefinementRecord as RefinementRecord,
)
from gqasearch.grouping_records import (
    SearchRecord as SearchRecord,
)
from gqasearch.separate_grouping import SIDES, AnyGrouping, SeparateGrouping

FORMAT = "gqasearch-grouping"
ONE_PARTITION, TWO_PARTITIONS = 1, 2  # versions: of the heads of a layer
RATIO_TOLERANCE = 1e-6  # other tools may round kv_ratio

R = TypeVar("R")


@dataclass(frozen=True)
class GroupingDocument:
    """All that a grouping JSON says. Parts that were not given or do not apply are None.

    A document that names a merge and no refinement means: none. ``join``: how many of the model's heads a KV head of a
    group has the size of (``gqasearch.models.joined``). ``separate_kv``: keys and values are grouped apart, and
    ``layers`` has two partitions for every layer, (2 L,), in the order of ``SeparateGrouping.from_sides``.
    ``kv_bits``: the cache format that the free basis of keys and values is chosen for (``gqasearch.basis``).

    Raises ``GroupingError`` when ``layers`` do not fit ``model``.
    """

    model: ModelRecord
    layers: tuple[LayerRecord, ...]
    merge: MergeRecord | None = None
    refinement: RefinementRecord | None = None
    fitness: FitnessRecord | None = None
    search: SearchRecord | None = None
    calibration: CalibrationRecord | None = None
    created_by: Mapping[str, str] = field(default_factory=lambda: {"gqasearch": __version__})
    join: int = 1
    separate_kv: bool = False
    kv_bits: str | None = None

    def __post_init__(self) -> None:
        if len(self.partitions) != self.model.num_layers:
            raise GroupingError(f"{len(self.partitions)} layers given, num_layers is {self.model.num_layers}")
        grouped = self.partitions.num_heads
        if grouped != self.model.num_key_value_heads:
            raise GroupingError(
                f"layers group {grouped} heads, num_key_value_heads is {self.model.num_key_value_heads}"
            )
        if self.separate_kv and self.join > 1:
            raise GroupingError(f"join is {self.join}: joined heads hold keys and values of one group, not of two")
        if self.model.num_attention_heads % self.model.num_key_value_heads:
            raise GroupingError(
                f"num_key_value_heads={self.model.num_key_value_heads} does not divide "
                f"num_attention_heads={self.model.num_attention_heads}"
            )

    @cached_property
    def partitions(self) -> AnyGrouping:
        """The partitions alone, one or two for every layer."""
        listed = Grouping(tuple(layer.grouping for layer in self.layers))
        return SeparateGrouping.from_sides(listed) if self.separate_kv else listed

    @property
    def grouping(self) -> Grouping:
        """The same for who takes one partition for every layer; raises ``UserError`` where there are two."""
        if isinstance(self.partitions, SeparateGrouping):
            raise UserError(
                "this grouping has keys and values grouped apart (--separate-kv), and what was asked for takes one "
                "partition of a layer's heads; materialize, evaluate, validate and heal take two"
            )
        return self.partitions

    @property
    def layer_names(self) -> list[str]:
        """What every one of ``layers`` is of: "3", or "3 keys" and "3 values"."""
        if not self.separate_kv:
            return [str(index) for index in range(len(self.layers))]
        return [f"{index} {side}" for index in range(self.model.num_layers) for side in SIDES]

    @property
    def kv_ratio(self) -> float:
        """The cache over the source's: a head counts as often as its size is that of the model's."""
        return self.partitions.kv_ratio * self.join

    @property
    def queries_per_kv(self) -> int:
        """Query heads that every KV head of the source carries."""
        return self.model.num_attention_heads // self.model.num_key_value_heads

    def to_json(self) -> str:
        """The document as text: always the same bytes, one line per layer."""
        known = {
            "format": FORMAT,
            "version": TWO_PARTITIONS if self.separate_kv else ONE_PARTITION,
            "model": asdict(self.model),
            "layers": layer_rows([_layer_json(layer) for layer in self.layers], self.separate_kv),
            "join": self.join if self.join > 1 else None,
            "kv_heads_total": self.partitions.kv_heads_total,
            "kv_ratio": self.kv_ratio,
            "merge": self.merge and asdict(self.merge),
            "refinement": self.refinement and asdict(self.refinement),
            "kv_bits": self.kv_bits,
            "fitness": self.fitness and asdict(self.fitness),
            "search": self.search and asdict(self.search),
            "calibration": self.calibration and asdict(self.calibration),
            "created_by": dict(sorted(self.created_by.items())),
        }
        lines = [f" {json.dumps(key)}: {_value_text(key, value)}" for key, value in known.items() if value is not None]
        return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def schema_text() -> str:
    """The JSON Schema of grouping JSON, as it is shipped."""
    return (files("gqasearch") / "grouping.schema.json").read_text(encoding="utf-8")


def grouping_schema() -> dict[str, Any]:
    """The JSON Schema of grouping JSON; it covers form, not meaning."""
    schema: dict[str, Any] = json.loads(schema_text())
    return schema


def write_grouping(path: Path, document: GroupingDocument, *, overwrite: bool = False) -> None:
    """Write the grouping JSON; raises ``UserError`` when the file exists and ``overwrite`` is not set."""
    write_file(path, document.to_json(), overwrite=overwrite)


def read_grouping(path: Path) -> GroupingDocument:
    """Read and check a grouping JSON: syntax, schema, meaning.

    Raises ``UserError`` that names the file, the place in it and what is wrong there.
    """
    data = read_json(path)
    _check_format(path, data)
    error = next(iter(sorted(Draft202012Validator(grouping_schema()).iter_errors(data), key=_depth_first)), None)
    if error is not None:
        _refuse(path, _place(error.absolute_path), _what(error))
    document = _build(path, data)
    _check_totals(path, data, document)
    return document


def layer_rows(partitions: list[dict[str, Any]], separate_kv: bool) -> list[dict[str, Any]]:
    """Rows of partitions as rows of layers: with ``separate_kv`` the two of a layer under the names of its sides."""
    if not separate_kv:
        return partitions
    return [dict(zip(SIDES, two, strict=True)) for two in zip(partitions[::2], partitions[1::2], strict=True)]


def partition_rows(layers: list[dict[str, Any]], separate_kv: bool) -> list[dict[str, Any]]:
    """The reverse of ``layer_rows``."""
    return [row[side] for row in layers for side in SIDES] if separate_kv else layers


def _layer_json(layer: LayerRecord) -> dict[str, Any]:
    known = {"error": layer.error, "proven_optimal": layer.proven_optimal, "lower_bound": layer.lower_bound}
    return {"groups": layer.grouping.groups} | {name: value for name, value in known.items() if value is not None}


def _value_text(key: str, value: Any) -> str:
    if key != "layers":
        return json.dumps(value, allow_nan=False, indent=1).replace("\n", "\n ")
    rows = [json.dumps(layer, allow_nan=False) for layer in value]
    return "[\n  " + ",\n  ".join(rows) + "\n ]"


def _check_format(path: Path, data: Mapping[str, Any]) -> None:
    if data.get("format") != FORMAT:
        _refuse(path, "format", f"must be {FORMAT!r}, is {_short(data.get('format'))}; this is no grouping JSON")
    versions = (ONE_PARTITION, TWO_PARTITIONS)
    if data.get("version") not in versions:
        known = " and ".join(map(str, versions))
        _refuse(path, "version", f"is {_short(data.get('version'))}; this gqasearch reads versions {known}")


def _build(path: Path, data: Mapping[str, Any]) -> GroupingDocument:
    model = _record(ModelRecord, data["model"])
    separate = data["version"] == TWO_PARTITIONS
    layers = []
    places = [f"layers[{index}]" for index in range(len(data["layers"]))]
    if separate:
        places = [f"{place}.{side}" for place in places for side in SIDES]
    for place, row in zip(places, partition_rows(data["layers"], separate), strict=True):
        try:
            grouping = LayerGrouping.from_groups(row["groups"], model.num_key_value_heads)
        except GroupingError as error:
            _refuse(path, f"{place}.groups", str(error))
        layers.append(_record(LayerRecord, {**row, "grouping": grouping}))
    try:
        return GroupingDocument(
            model,
            tuple(layers),
            merge=_record(MergeRecord, data["merge"]) if "merge" in data else None,
            refinement=_record(RefinementRecord, data["refinement"]) if "refinement" in data else None,
            fitness=_record(FitnessRecord, data["fitness"]) if "fitness" in data else None,
            search=_record(SearchRecord, data["search"]) if "search" in data else None,
            calibration=_record(CalibrationRecord, data["calibration"]) if "calibration" in data else None,
            created_by=data.get("created_by", {}),
            join=int(data.get("join", 1)),
            kv_bits=data.get("kv_bits"),
            separate_kv=separate,
        )
    except GroupingError as error:
        _refuse(path, "model", str(error))


def _record(kind: type[R], data: Mapping[str, Any]) -> R:
    """The dataclass from its known fields; what other tools add is ignored. 6.0 is an integer in JSON."""
    known = [f for f in fields(kind) if f.name in data]  # type: ignore[arg-type]
    return kind(**{f.name: int(data[f.name]) if f.type == "int" else data[f.name] for f in known})


def _check_totals(path: Path, data: Mapping[str, Any], document: GroupingDocument) -> None:
    grouping, total, ratio = document.partitions, data["kv_heads_total"], data["kv_ratio"]
    if total != grouping.kv_heads_total:
        _refuse(path, "kv_heads_total", f"is {total}, the layers have {grouping.kv_heads_total} groups")
    if not math.isclose(ratio, document.kv_ratio, abs_tol=RATIO_TOLERANCE):
        _refuse(path, "kv_ratio", f"is {ratio}, the layers give {document.kv_ratio:g}")


def _refuse(path: Path, place: str, what: str) -> NoReturn:
    raise UserError(f"{path}: {place}: {what}")


def _place(parts: Iterable[str | int]) -> str:
    """``layers[3].groups`` from ("layers", 3, "groups")."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".") or "top level"


def _what(error: ValidationError) -> str:
    """The validator's message, without the whole of a long value in it."""
    if error.validator == "type":
        return f"must be of type {error.validator_value}, is {_short(error.instance)}"
    if error.validator == "minItems":
        return "must not be empty"
    return str(error.message) if len(error.message) <= 200 else f"{error.message[:200]}..."


def _depth_first(error: ValidationError) -> tuple[int, str]:
    return (len(error.absolute_path), _place(error.absolute_path))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."

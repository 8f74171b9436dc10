"""Second reads: what they may be, the grouping JSON, a layer and a checkpoint with heads twice, and who is chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gqasearch.checkpoints import write_with_copies
from gqasearch.errors import UserError
from gqasearch.grouping import GroupingError, LayerGrouping
from gqasearch.grouping_document import GroupingDocument, LayerRecord, ModelRecord, read_grouping, write_grouping
from gqasearch.merging import LayerMerge
from gqasearch.merging.second_read_choice import choose_second_reads
from gqasearch.models import resolve_model
from gqasearch.models.copied_heads import with_copies
from gqasearch.second_reads import with_second_reads
from tests.checkpoints.convert import load
from tests.tiny_models import save_checkpoint, tiny_model

LAYER = LayerGrouping.from_groups([[0, 2, 3], [1]])
MODEL = ModelRecord("m", "LlamaForCausalLM", 2, 4, 4, 8)


def document(*reads: tuple[tuple[int, int], ...]) -> GroupingDocument:
    return GroupingDocument(MODEL, tuple(LayerRecord(LAYER, second_reads=own) for own in reads))


def test_copies_join_the_groups_that_they_read() -> None:
    assert with_second_reads(LAYER, ((3, 1), (0, 1))).groups == ((0, 2, 3), (1, 4, 5))


def test_json_holds_them(tmp_path: Path) -> None:
    path, written = tmp_path / "grouping.json", document(((0, 1), (3, 1)), ((2, 1), (0, 1)))
    write_grouping(path, written)
    assert json.loads(path.read_text())["layers"][1]["second_reads"] == [[2, 1], [0, 1]]
    assert replace(read_grouping(path), created_by={}) == replace(written, created_by={})


@pytest.mark.parametrize(
    ("reads", "words"),
    [
        ([[0, 2]], "groups 0..1"),
        ([[4, 1]], "heads are 0..3"),
        ([[1, 1]], "head 1 is in group 1"),
        ([[0, 1], [0, 1]], "named twice"),
        ([[0, 1], [2, 1]], "layers differ in their number of second reads: [1, 2]"),
    ],
)
def test_json_with_others_is_refused(tmp_path: Path, reads: list[list[int]], words: str) -> None:
    path = tmp_path / "grouping.json"
    write_grouping(path, document(((0, 1),), ((0, 1),)))
    data = json.loads(path.read_text())
    data["layers"][1]["second_reads"] = reads
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"grouping.json") as refused:
        read_grouping(path)
    assert words in str(refused.value)


def test_not_with_keys_and_values_apart() -> None:
    with pytest.raises(GroupingError, match="one group"):
        replace(document(((0, 1),), ((0, 1),)), join=2)


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", {}), ("qwen2", {"heads": 12, "kv_heads": 6}), ("qwen3", {}), ("gemma3_text", {}), ("mistral", {})],
)
def test_a_model_with_heads_twice_computes_the_same(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    """In stock transformers, which counts the heads by config.json."""
    source = resolve_model(str(save_checkpoint(tiny_model(family, **options), tmp_path / "source")))
    heads = source.geometry.num_kv_heads
    found = write_with_copies(source, [[0, 0], [heads - 1, 1]], tmp_path / "twice")
    assert found.geometry.num_kv_heads == heads + 2 and found.geometry.head_dim == source.geometry.head_dim
    assert torch.equal(found.layer(1).k[heads], source.layer(1).k[heads - 1])
    ids = torch.randint(5, 200, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own, wide = (load(one.directory).float()(ids).logits for one in (source, found))
    assert float((own - wide).abs().max()) < 2e-5 * float(own.std())


def test_an_architecture_without_such_a_form_is_refused(tmp_path: Path) -> None:
    source = resolve_model(str(save_checkpoint(tiny_model("opt"), tmp_path / "source")))
    with pytest.raises(UserError, match="OPTForCausalLM has none"):
        write_with_copies(source, [[0], [0]], tmp_path / "twice")


def test_a_copy_carries_all_queries_and_adds_nothing(tmp_path: Path) -> None:
    source = resolve_model(str(save_checkpoint(tiny_model("qwen2", heads=12, kv_heads=6), tmp_path / "source")))
    own, found = source.layer(0), with_copies(source.layer(0), [4])
    assert torch.equal(found.q[12:], own.q[8:10]) and torch.equal(found.v[6], own.v[4])
    assert not found.o[12:].any() and torch.equal(found.o[:12], own.o)


class Planted(LayerMerge):
    """Errors of groups that are sums over pairs of a table."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table, self._errors = table, {}

    def merge_group(self, heads: tuple[int, ...]) -> Any:
        raise NotImplementedError

    def _group_errors(self, groups: Any, side: Any) -> list[float]:
        return [sum(float(self.table[pair]) for pair in combinations(heads, 2)) for heads in groups]


def test_who_suffers_most_reads_where_it_fits_best() -> None:
    """Head 3 suffers in {0, 1, 2, 3}; of the others it is nearest to group {5}."""
    table = torch.ones(6, 6)
    table[:4, 3] = table[3, :4] = 9.0
    table[3, 5] = table[5, 3] = 0.1
    layer = LayerGrouping.from_groups([[0, 1, 2, 3], [4], [5]])
    reads = choose_second_reads(Planted(table), layer, 4)
    assert (3, 2) in reads
    first = choose_second_reads(Planted(table), LayerGrouping.from_groups([[0, 1, 2, 3], [4, 5]]), 4)
    assert (3, 1) in first


@given(st.lists(st.integers(0, 3), min_size=4, max_size=9), st.integers(0, 100))
def test_every_slot_is_filled_and_nobody_reads_twice(labels: list[int], seed: int) -> None:
    layer = LayerGrouping.from_labels(labels)
    table = torch.rand(len(labels), len(labels), generator=torch.Generator().manual_seed(seed))
    room = max(layer.sizes)
    reads = choose_second_reads(Planted(table), layer, room)
    filled = with_second_reads(layer, reads)
    assert filled.is_equal_cardinality and max(filled.sizes) == room
    LayerRecord(layer, second_reads=reads)  # refuses what cannot be


def test_room_for_more_heads_than_there_are() -> None:
    with pytest.raises(ValueError, match="4 heads cannot fill groups of 5"):
        choose_second_reads(Planted(torch.ones(4, 4)), LAYER, 5)

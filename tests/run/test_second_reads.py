"""Whole runs with ``fill_slots``: chosen, fitted, written without an empty slot, told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.evaluation import count_parameters, kv_bytes_per_token
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.grouping_document import read_grouping
from gqasearch.healing import HealConfig
from gqasearch.run import RunFolder, run
from gqasearch.run.heal import heal
from gqasearch.run.origin import evaluation_config, healing_settings, materialize_config
from gqasearch.steps import Workspace
from gqasearch.steps.convert import materialize
from gqasearch.steps.filled_slots import check_fill_slots, chosen_second_reads, layout_of, with_copies
from gqasearch.steps.measure import checkpoint_subject, measure
from tests.tiny_models import save_checkpoint, tiny_model

# Enough of a search for groups of unequal size.
OUTPUTS: dict[str, Any] = {"refine": "outputs", "refine_parameters": {}}
SMALL = {"population": 8, "offspring": 8, "generations": 6}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GQASEARCH_CACHE", str(tmp_path / "cache"))


def finished(settings: dict[str, Any], folder: Path, **changes: Any) -> RunFolder:
    own = {"fill_slots": True, "kv_heads": 2, "method_parameters": SMALL, "refine_parameters": {"steps": 20}}
    return run(build_config({**settings, "baseline": False, **own, **changes}), folder, report=False)


def converted(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(folder.metrics.read_text())["results"]["converted"]
    return found


def test_from_search_to_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    """No larger than the padded one, its cache neither, and closer to the parent; written again it is the same."""
    folder = finished(settings, tmp_path / "run")
    document, mine = read_grouping(folder.grouping), converted(folder)
    assert document.has_second_reads, "the search found groups of equal size: nothing is tested"
    filled = with_copies(document).grouping
    assert all(layer.is_equal_cardinality for layer in filled)
    plain = finished(settings, tmp_path / "plain", fill_slots=False)
    assert read_grouping(plain.grouping).grouping == document.grouping
    assert mine["kl"] < converted(plain)["kl"]
    for figure in ("parameters", "kv_bytes_per_token"):
        assert mine[figure] == converted(plain)[figure]
    written = AutoModelForCausalLM.from_pretrained(folder.model)
    assert (kv_bytes_per_token(written), count_parameters(written)) == (mine["kv_bytes_per_token"], mine["parameters"])
    o = written.model.layers[0].self_attn.o_proj.weight.detach()
    assert o.unflatten(1, (filled.num_heads, -1)).any(2).any(0).all()  # every slot adds something
    assert not list(folder.path.glob("state/*copies*"))
    card = " ".join((folder.model / "README.md").read_text().split())
    assert "second reads: queries of heads of other groups" in card
    assert "second_reads" in (folder.model / "grouping.json").read_text()
    materialize(Workspace(materialize_config(folder.path, {})), document, tmp_path / "again")
    one, other = (load_file(path / "model.safetensors") for path in (folder.model, tmp_path / "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    work = Workspace(evaluation_config(folder.path, {}))
    again = measure(work, {"converted": checkpoint_subject(work, folder.model)}, is_run=False)
    assert again["results"]["converted"]["kl"] == mine["kl"]


def test_without_a_checkpoint_the_figures_are_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    found = [
        converted(finished(settings, tmp_path / str(written), materialize=written, **OUTPUTS))
        for written in (True, False)
    ]
    assert found[0]["kl"] == pytest.approx(found[1]["kl"], rel=1e-3)
    assert found[0]["parameters"] == found[1]["parameters"]
    assert found[0]["kv_bytes_per_token"] == found[1]["kv_bytes_per_token"]


def test_slots_hold_the_heads_that_the_json_names(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", **OUTPUTS)
    document, work = read_grouping(folder.grouping), Workspace(materialize_config(folder.path, {}))
    layout = layout_of(work, document)
    for slots, record in zip(layout.slots, document.layers, strict=True):
        room = len(slots) // record.grouping.num_groups
        for group, heads in enumerate(record.grouping.groups):
            seconds = [head for head, other in record.second_reads if other == group]
            assert list(slots[group * room : (group + 1) * room]) == [*heads, *seconds]


def test_heads_with_several_queries(settings: dict[str, Any], tmp_path: Path) -> None:
    """Of a source that is grouped already a head reads twice with all of its queries."""
    model = str(save_checkpoint(tiny_model("qwen3", heads=12, kv_heads=6), tmp_path / "model"))
    folder = finished({**settings, "model": model}, tmp_path / "run", refine_parameters={"steps": 4})
    assert read_grouping(folder.grouping).has_second_reads
    assert json.loads(folder.metrics.read_text())["checkpoint"]["layout"] == "stock-padded"


def test_groups_of_equal_size_have_nothing_to_fill(settings: dict[str, Any]) -> None:
    work = Workspace(build_config({**settings, "fill_slots": True, "kv_heads": 2}))
    assert chosen_second_reads(work, Grouping.uniform(LayerGrouping.neighbours(6, 2), 2)) == ((), ())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"join": 2}, "join"),
        ({"separate_kv": True}, "separate_kv"),
        ({"equal_sizes": True}, "equal_sizes"),
        ({"uneven": True, "kv_heads": None, "kv_ratio": 0.5}, "uneven"),
        ({"layout": "ragged"}, "ragged"),
        ({"refine": "none"}, "must be fitted"),
    ],
)
def test_what_it_does_not_go_with(settings: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match="fill_slots does not go with") as refused:
        check_fill_slots(Workspace(build_config({**settings, "fill_slots": True, "kv_heads": 2, **changes})))
    assert words in str(refused.value)


def test_healing_trains_all_slots_and_refuses_progressive(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = finished(settings, tmp_path / "run", **OUTPUTS)
    small = {"steps": 2, "validation_tokens": 100, "evaluation_tokens": 100, "batch_blocks": 2, "block_length": 32}
    given = healing_settings(str(folder.path), {**small, "text": settings["calibration_text"]})
    with pytest.raises(UserError, match="some of this checkpoint read twice"):
        heal(HealConfig(**{**given, "progressive": 0.5}), tmp_path / "refused")
    healed = heal(HealConfig(**given), tmp_path / "healed")
    before, after = (load_file(path / "model.safetensors") for path in (folder.model, healed.model))
    changed = (before["model.layers.0.self_attn.o_proj.weight"] != after["model.layers.0.self_attn.o_proj.weight"]).any(
        0
    )
    assert changed.all()

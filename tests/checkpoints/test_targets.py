"""What --target chooses, and what it refuses, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gqasearch.checkpoints import plan_layout
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.grouping import Grouping, LayerGrouping
from gqasearch.layout_choice import LayoutChoice
from gqasearch.models import HeadGeometry, supported_architectures
from gqasearch.steps import Workspace
from gqasearch.steps.check_settings import check_settings
from gqasearch.targets import TARGETS, TargetName
from tests.tiny_models import save_checkpoint, tiny_model

SHAPE = HeadGeometry(num_layers=2, num_attention_heads=6, num_kv_heads=6, head_dim=8, hidden_size=48, rotary_dim=8)
LLAMA: dict[str, Any] = {"architectures": ["LlamaForCausalLM"]}
QWEN: dict[str, Any] = {"architectures": ["Qwen3ForCausalLM"]}


def grouping(*layers: list[int]) -> Grouping:
    return Grouping(tuple(LayerGrouping.from_labels(labels) for labels in layers))


SYMMETRIC = grouping([0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2])
PADDED = grouping([0, 0, 0, 1, 1, 2], [0, 1, 2, 0, 1, 2])
SPARING = grouping([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2])
WASTEFUL = grouping([0, 0, 0, 0, 0, 1], [0, 1, 2, 3, 4, 4])  # ten query heads would be needed, and more padding


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("made", "name"), [(SYMMETRIC, "stock-symmetric"), (PADDED, "stock-padded")])
def test_every_target_takes_stock_checkpoints(target: TargetName, made: Grouping, name: str) -> None:
    layout = plan_layout(made, SHAPE, "auto", LLAMA, target)
    assert layout.name == name
    assert layout.reason.endswith(" For any engine." if target == "any" else f" For {target}.")


@pytest.mark.parametrize(
    ("target", "made", "config", "name"),
    [
        ("transformers", SPARING, LLAMA, "deci"),
        ("transformers", WASTEFUL, LLAMA, "ragged"),
        ("transformers", SPARING, QWEN, "ragged"),
        ("vllm", SPARING, LLAMA, "deci"),
        ("vllm", WASTEFUL, LLAMA, "deci"),
        ("llama.cpp", WASTEFUL, LLAMA, "deci"),
    ],
)
def test_layers_that_differ_get_what_the_target_can_load(
    target: TargetName, made: Grouping, config: dict[str, Any], name: str
) -> None:
    assert plan_layout(made, SHAPE, "auto", config, target).name == name


@pytest.mark.parametrize(
    ("target", "config", "message"),
    [
        ("ctranslate2", LLAMA, "target ctranslate2 takes one number of KV heads for all layers, this .* 2, 3 KV heads"),
        ("any", LLAMA, "target any takes one number of KV heads for all layers"),
        ("vllm", QWEN, "target vllm takes layers that differ as a DeciLM alone .Qwen3ForCausalLM is no Llama"),
    ],
)
def test_what_a_target_cannot_take_is_refused(target: TargetName, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_layout(SPARING, SHAPE, "auto", config, target)


@pytest.mark.parametrize(
    ("layout", "target", "made"),
    [("ragged", "llama.cpp", SPARING), ("deci", "ctranslate2", SPARING), ("ragged", "any", SYMMETRIC)],
)
def test_a_layout_that_was_named_is_held_against_the_target(
    layout: LayoutChoice, target: TargetName, made: Grouping
) -> None:
    why = TARGETS[target].cannot[layout]  # type: ignore[index]  # not auto, nor stock
    with pytest.raises(UserError, match=f"layout {layout} is not for target {target}: {why}"):
        plan_layout(made, SHAPE, layout, LLAMA, target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_padded_qwen2_is_for_engines_that_read_head_dim(target: TargetName) -> None:
    """As tests/clients found."""
    qwen2: dict[str, Any] = {"architectures": ["Qwen2ForCausalLM"]}
    assert plan_layout(SYMMETRIC, SHAPE, "auto", qwen2, target).name == "stock-symmetric"
    if target in ("transformers", "llama.cpp"):
        assert plan_layout(PADDED, SHAPE, "auto", qwen2, target).name == "stock-padded"
    else:
        with pytest.raises(UserError, match=f"stock-padded is not for target {target}: .* Use groups of equal size"):
            plan_layout(PADDED, SHAPE, "auto", qwen2, target)


def config_of(architecture: str) -> dict[str, Any]:
    return {"architectures": [architecture]}


@pytest.mark.parametrize(
    ("target", "architecture", "why"),
    [
        ("ctranslate2", "CohereForCausalLM", "its converter knows no such model"),
        ("llama.cpp", "PhiForCausalLM", "as many key heads as query heads"),
        ("any", "GraniteForCausalLM", "ctranslate2: its converter knows no such model"),
        ("any", "PhiForCausalLM", "llama.cpp: .*; ctranslate2: "),
    ],
)
def test_a_model_that_an_engine_does_not_know_is_not_for_it(target: TargetName, architecture: str, why: str) -> None:
    """As tests/clients found. A symmetric checkpoint is refused, too."""
    for made in (SYMMETRIC, PADDED):
        message = f"target {target} loads no converted {architecture}: .*{why}"
        with pytest.raises(UserError, match=message):
            plan_layout(made, SHAPE, "auto", config_of(architecture), target)


def test_an_engine_that_takes_a_model_may_not_take_it_padded() -> None:
    granite = config_of("GraniteForCausalLM")
    assert plan_layout(SYMMETRIC, SHAPE, "auto", granite, "llama.cpp").reason.endswith(" For llama.cpp.")
    with pytest.raises(UserError, match=r"stock-padded is not for target llama.cpp: .* Use groups of equal size"):
        plan_layout(PADDED, SHAPE, "auto", granite, "llama.cpp")


@pytest.mark.parametrize(
    ("target", "architecture"),
    [("llama.cpp", "GemmaForCausalLM"), ("ctranslate2", "Gemma2ForCausalLM"), ("any", "GemmaForCausalLM")],
)
def test_what_was_never_tried_is_not_promised(target: TargetName, architecture: str) -> None:
    reason = plan_layout(SYMMETRIC, SHAPE, "auto", config_of(architecture), target).reason
    assert reason.endswith(f"({architecture} is not among the architectures that were found to load in it).")
    assert "found to load" not in plan_layout(SYMMETRIC, SHAPE, "auto", config_of(architecture), "transformers").reason


def test_every_architecture_that_a_target_names_is_one_that_is_written() -> None:
    known = supported_architectures()
    for target in TARGETS.values():
        named = [*target.cannot_pad, *target.cannot_load, *(target.tested or ())]
        assert set(named) <= known.keys()
        assert not set(target.tested or ()) & target.cannot_load.keys()


QCQA = {"method": "qcqa-ac"}  # splits the budget itself


@pytest.mark.parametrize("differ", [{"uneven": True}, {"kv_budget": 20}, {"objectives": ["kl", "kv-ratio"]}, QCQA])
def test_a_search_that_the_target_cannot_load_does_not_begin(differ: dict[str, Any]) -> None:
    """The embedded model is a Llama of 12 heads, 6 layers."""
    check_settings(Workspace(build_config({"target": "vllm", **differ})))
    for allowed in ({}, {**differ, "materialize": False}):
        check_settings(Workspace(build_config({"target": "any", **allowed})))
    with pytest.raises(UserError, match=r"target any takes one number of KV heads for all layers\. Search with --kv-r"):
        check_settings(Workspace(build_config({"target": "any", **differ})))


@pytest.mark.parametrize(
    ("family", "target", "settings", "message"),
    [
        ("qwen2", "vllm", {}, "loads no query-padded Qwen2ForCausalLM: .* Search with --equal-sizes"),
        ("qwen2", "any", {}, "loads no query-padded Qwen2ForCausalLM"),
        ("qwen3", "llama.cpp", {"uneven": True}, "layers that differ as a DeciLM alone .Qwen3ForCausalLM is no Llama"),
        ("gpt_neox", "vllm", {"uneven": True}, "layers that differ as a DeciLM alone .PhiForCausalLM is no Llama"),
        ("granite", "llama.cpp", {}, "loads no query-padded GraniteForCausalLM"),
    ],
)
def test_what_the_model_adds_to_that(
    family: str, target: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = str(save_checkpoint(tiny_model(family), tmp_path / "model"))
    with pytest.raises(UserError, match=message):
        check_settings(Workspace(build_config({"model": model, "target": target, "block_length": 32, **settings})))
    check_settings(Workspace(build_config({"model": model, "target": target, "block_length": 32, "equal_sizes": True})))


@pytest.mark.parametrize(
    ("family", "target"),
    [("gpt_neox", "llama.cpp"), ("falcon", "llama.cpp"), ("cohere", "ctranslate2"), ("phi", "any")],
)
def test_a_search_for_an_engine_that_knows_no_such_model_does_not_begin(
    family: str, target: str, tmp_path: Path
) -> None:
    model = str(save_checkpoint(tiny_model(family), tmp_path / "model"))
    settings = {"model": model, "target": target, "block_length": 32, "equal_sizes": True}
    with pytest.raises(UserError, match=f"target {target} loads no converted .*Use --target transformers"):
        check_settings(Workspace(build_config(settings)))


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(UserError, match=r"target: .*'transformers', 'vllm'.*got 'tgi'"):
        build_config({"target": "tgi"})


@pytest.mark.parametrize(
    ("setting", "given", "meant"),
    [("target", "vlm", "vllm"), ("target", "Transformers", "transformers"), ("layout", "stok", "stock")],
)
def test_a_choice_that_is_misspelt_is_answered_with_the_nearest(setting: str, given: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"{setting}: .*got '{given}'; did you mean '{meant}'\?"):
        build_config({setting: given})


def test_deci_where_it_was_asked_for_does_not_say_that_stock_is_impossible() -> None:
    assert "Layers have 3 KV heads, here as a DeciLM, with none added." in plan_layout(SYMMETRIC, SHAPE, "deci").reason
    assert "which no stock architecture can say" in plan_layout(SPARING, SHAPE, "deci").reason

"""What ``--target`` says of every family, held against the engines: what it names loads, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gqasearch.doctor import Patient, examine
from gqasearch.models import read_config
from gqasearch.targets import TARGETS, TargetName
from tests.checkpoints.test_stock_families import NEVER_PADDED
from tests.clients.cases import STOCK, Converted, difference, make_case
from tests.clients.client import ALL_CLIENTS, Client, ClientError
from tests.tiny_described import WINDOWS
from tests.tiny_models import GROUPED_NAMES, LAYER_NORMED_HEADS

CLIENTS: dict[TargetName, Client] = {
    "ctranslate2": Client("ctranslate2", "CTranslate2", in_suite=True),
    "llama.cpp": Client("llamacpp", "llama.cpp", in_suite=True),
    "mlx": Client("mlx", "MLX-LM"),
}
# Of the families that are a few words each, those that were tried.
MORE: dict[TargetName, tuple[str, ...]] = {
    "ctranslate2": (),
    "llama.cpp": ("arcee", "seed_oss", "olmo2", "mixtral", "qwen2_moe", "granitemoe", "qwen3_moe", "exaone4"),
    "mlx": (
        *("arcee", "seed_oss", "olmo2", "mixtral", "qwen2_moe", "granitemoe"),
        *("glm", "glm4", "nemotron", "olmo3", "ministral"),
    ),
}
CASES = [
    (target, family, layout)
    for target in CLIENTS
    for family in (*GROUPED_NAMES, *MORE[target])
    for layout in STOCK
    if not (layout == "stock-padded" and family in NEVER_PADDED)
    if family not in LAYER_NORMED_HEADS  # variants that were tried in no engine, as doctor says
]


@pytest.mark.parametrize(("target", "family", "layout"), CASES)
def test_targets_say_what_engines_do(target: TargetName, family: str, layout: Any, tmp_path: Path) -> None:
    if not os.environ.get(ALL_CLIENTS):
        pytest.skip("all families run in make test-clients")
    CLIENTS[target].require()
    case = make_case(family, (layout,), tmp_path)
    engine, architecture = TARGETS[target], read_config(case.source)["architectures"][0]
    loads = engine.objection(layout, architecture) is None and engine.is_tested(architecture)
    if (target, family, layout) == ("llama.cpp", "qwen2", "stock-padded"):
        pytest.skip("gqasearch export-gguf writes what llama.cpp's converter does not: test_llamacpp")
    if loads:
        difference(_answer(target, case.converted[layout], tmp_path), case.converted[layout])
        return
    try:
        said = _answer(target, case.converted[layout], tmp_path)
    except ClientError:
        return
    if "refused" not in said:
        with pytest.raises(AssertionError):
            difference(said, case.converted[layout])


@pytest.mark.parametrize(
    ("family", "own"),
    [("qwen2_moe", {"norm_topk_prob": True}), ("qwen3_moe", {"norm_topk_prob": False}), ("exaone4", WINDOWS)],
)
def test_what_llama_cpp_takes_for_published_is_found(family: str, own: dict[str, Any], tmp_path: Path) -> None:
    """It loads them and computes other models, and ``doctor`` says so."""
    CLIENTS["llama.cpp"].require()
    case = make_case(family, ("stock-symmetric",), tmp_path, **own)
    converted = case.converted["stock-symmetric"]
    said = {finding.severity for finding in examine(Patient(converted.folder, "llama.cpp"))}
    with pytest.raises((AssertionError, ClientError)):  # the latter where its answer is no token that has a text
        difference(_answer("llama.cpp", converted, tmp_path), converted)
    assert "fails" in said


def _answer(target: TargetName, converted: Converted, folder: Path) -> dict[str, Any]:
    client = CLIENTS[target]
    if target == "llama.cpp":
        path = folder / "model.gguf"
        client.run("convert.py", [[str(converted.folder), str(path)]], folder)
        request = converted.request(path, context=1024)
    elif target == "mlx":
        request = converted.request()
    else:
        request = converted.request(target=str(folder / "converted"), trust=False)
    answer: dict[str, Any] = client.run("run.py", [request], folder).result[0]
    return answer

"""One case: a small model as people might have it, a text, a search; and what must hold whatever became of them.

A run refuses with one message, or ends well with a checkpoint. Then transformers takes the source without making a
tensor up, and what was written has the logits of the source with tied heads.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner

from gqasearch.cli.app import app
from tests.fuzz.damage import MODEL_DAMAGES
from tests.fuzz.texts import TEXTS, plain
from tests.fuzz.tied import tie
from tests.tiny_models import ALL_FAMILY_NAMES, MORE_FAMILY_NAMES, kv_head_choices, save_checkpoint, tiny_model

REFUSED = 2  # exit status
SMALL = ["--calibration-tokens", "256", "--search-tokens", "128", "--evaluation-tokens", "128", "--block-length", "32"]
# Largest |difference| of logits over their largest value: sums in another order; a mean that is rounded the other way;
# norms folded into weights before rounding.
TOLERANCE, ROUNDED, FOLDED = 1e-4, 0.02, 0.1


@dataclass
class Case:
    """What was drawn, and what became of it: ``refused``, ``equal``, or a fault in words."""

    seed: int
    steps: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    outcome: str = ""
    fault: str = ""


def run_case(seed: int, folder: Path) -> Case:
    """Draw the case of ``seed`` in an empty ``folder``, run it, and judge it."""
    rng, case = random.Random(seed), Case(seed)
    _quiet()
    source, output = _draw_model(folder, rng, case), folder / "run"
    text = _draw_text(folder, rng, case)
    case.command = ["search", "--model", str(source), "--calibration-text", str(text), "--output-dir", str(output)]
    case.command += [*SMALL, *_draw_options(rng)]
    result = CliRunner().invoke(app, case.command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        case.fault = "".join(traceback.format_exception(result.exception))
    elif result.exit_code == REFUSED:
        case.outcome = "refused: " + " ".join(result.stderr.split())
        if "gqasearch: " not in result.stderr or "Traceback" in result.stderr:
            case.fault = "refused without a message: " + result.output
        elif (output / "model").exists():
            case.fault = f"{case.outcome}, but left a checkpoint"
    elif result.exit_code != 0:
        case.fault = f"exit status {result.exit_code}: {result.output}"
    else:
        case.fault = _judge(source, output)
        case.outcome = "" if case.fault else "equal"
    return case


def _draw_model(folder: Path, rng: random.Random, case: Case) -> Path:
    family = rng.choice(("llama", "llama", "mistral", "qwen2", *ALL_FAMILY_NAMES, *MORE_FAMILY_NAMES))
    kv_heads = rng.choice(kv_head_choices(family))
    dtype = rng.choice((torch.float32, torch.float32, torch.bfloat16))
    tied = rng.random() < 0.3
    model = tiny_model(family, kv_heads=kv_heads, seed=rng.randrange(100), dtype=dtype, tied=tied)
    size = rng.choice(("1GB", "60KB"))
    source = save_checkpoint(model, folder / "source", max_shard_size=size)
    case.steps.append(f"{family}, {kv_heads} KV heads, {dtype}, tied {tied}, shards of {size}")
    for damage in rng.sample(MODEL_DAMAGES, rng.choice((0, 1, 1, 1, 2))):
        case.steps.append(damage.__name__)
        # The second of two may find nothing left to work on.
        with contextlib.suppress(Exception):
            damage(source, rng)
    return source


def _draw_text(folder: Path, rng: random.Random, case: Case) -> Path:
    write = plain if rng.random() < 0.6 else rng.choice(TEXTS)
    case.steps.append(write.__name__)
    return write(folder, rng)


def _draw_options(rng: random.Random) -> list[str]:
    """A mean merge, or the identity under the default; any layout."""
    method = rng.choice(
        (["neighbour"], ["random"], ["evolution", "--set", "method.population=6", "--set", "method.generations=1"])
    )
    if rng.random() < 0.2:
        return ["--kv-ratio", "1", "--method", "neighbour"]
    ratio = ["--kv-ratio", rng.choice(("0.34", "0.5", "0.67"))]
    uneven = ["--uneven"] if method[0] == "evolution" and rng.random() < 0.4 else []
    apart = ["--separate-kv"] if rng.random() < 0.25 else []
    return [*ratio, "--merge", "mean", "--refine", "none", *uneven, *apart, "--method", *method]


def _judge(source: Path, output: Path) -> str:
    """What is wrong with a run that ended well; nothing, if nothing is."""
    written = output / "model"
    if not written.is_dir():
        return "exit status 0 without a checkpoint"
    try:
        parent, info = _load(source)
    except Exception as error:  # noqa: BLE001 - whatever transformers does not load must not have been converted
        return f"exit status 0 for a source that transformers does not load: {error}"
    if info["missing_keys"] or info["mismatched_keys"]:
        return f"exit status 0 for a source with weights that transformers makes up: {info}"
    document = json.loads((output / "grouping.json").read_text(encoding="utf-8"))
    stored = {_dtype(path, name) for path in source.glob("*.safetensors") for name in _names(path)}
    sides = [(layer.get("keys", layer)["groups"], layer.get("values", layer)["groups"]) for layer in document["layers"]]
    tie(parent, sides, next(iter(stored), torch.float32))
    model, info = _load(written)
    if info["missing_keys"] or info["mismatched_keys"]:
        return f"the checkpoint lacks {info}"
    ids = torch.randint(3, 250, (1, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, got = parent(ids).logits, model(ids).logits
    difference = float((wanted - got).abs().max() / wanted.abs().max())
    folded = parent.config.model_type in ("gpt_neox", "falcon") and model.config.model_type == "phi"
    allowed = TOLERANCE if stored == {torch.float32} else FOLDED if folded else ROUNDED
    return "" if difference <= allowed else f"logits differ by {difference:.3g} of the largest, {allowed} is allowed"


def _load(folder: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=(folder.name == "model")
        )
    return model.eval(), info


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except Exception:  # noqa: BLE001 - a shard that nothing reads
        return []


def _dtype(path: Path, name: str) -> torch.dtype:
    with safe_open(path, framework="pt") as file:
        dtype: torch.dtype = file.get_tensor(name).dtype
        return dtype


def _quiet() -> None:
    transformers_logging.set_verbosity(logging.CRITICAL)
    warnings.simplefilter("ignore")

"""Greedy tokens of SmolLM2, the parent and converted, in llama.cpp and in transformers: where do they part, and why?

python -m experiments.benchmarks.greedy --work runs/greedy     # an hour on one core; goes on where it was stopped

Needs llama.cpp's environment (``make test`` makes it). Every model runs from files of the same weights: all in F32,
which says whether the two engines compute the same network; and as it is served, the parent's MLP in Q4_1, its
attention in Q4_1 or, converted, in F16 or Q8_0. A prompt's tokens part at the first that differs; *margin* is how far
transformers has its first token above its second there, *noise* the median difference, before that, of the two engines'
log-probability of the token that both took.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.benchmarks.scale_models import smollm2, smollm2_file, write_topics
from gqasearch.checkpoints.gguf_file import NewTensor, write_gguf
from gqasearch.files import write_file
from gqasearch.models.gguf import GgufFile, import_gguf
from gqasearch.models.gguf.file import shape_of

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / ".venv-clients" / "llamacpp" / "bin" / "python"
SCRIPT = ROOT / "tests" / "clients" / "llamacpp" / "greedy.py"
TOKENS = 64
ENDS = ["<|endoftext|>", "<|im_end|>"]  # what SmolLM2 ends a text with
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "To sort a list of numbers in Python,",
    "The three states of matter are",
    "In 1969, people first walked on",
    "A recipe for bread begins with",
    "The difference between weather and climate is",
    "Dear customer, thank you for",
)
# (id, log-probabilities of the two most likely), one for every new token of every prompt.
Rows: TypeAlias = list[list[tuple[int, list[float]]]]


@dataclass(frozen=True)
class Parting:
    """Of one prompt. ``same``: tokens before the first that differs; ``margin``: nats, None where none differs;
    ``noise``: of every token before.
    """

    same: int
    margin: float | None
    noise: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "greedy")
    parser.add_argument("--kv-ratio", default="0.889", help="of the whole model: most layers keep their heads")
    parser.add_argument("--refine", default="none")
    parser.add_argument("--calibration-tokens", default="8192")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    parent = smollm2_file(given.work)
    converted = conversion(given, parent)
    folders = {"parent": smollm2(given.work / "parent"), "converted": converted}
    plain = in_f32(parent, given.work / "parent-F32.gguf")
    files = {
        ("parent", "F32"): plain,
        ("parent", "Q4_1"): parent,
        ("converted", "F32"): exported(plain, converted, given.work / "converted-F32.gguf", "F16"),
        ("converted", "Q4_1, attention F16"): exported(parent, converted, given.work / "converted-F16.gguf", "F16"),
        ("converted", "Q4_1, attention Q8_0"): exported(parent, converted, given.work / "converted-Q8_0.gguf", "Q8_0"),
    }
    tokenizer = AutoTokenizer.from_pretrained(folders["parent"])
    prompts: list[list[int]] = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    ends = [tokenizer.get_vocab()[token] for token in ENDS]
    for (name, kind), file in files.items():
        wanted = in_transformers(folders[name], prompts, ends, given.work / f"{name}.json")
        found = in_llamacpp(file, prompts, given.work)
        partings = [parting(mine, theirs) for mine, theirs in zip(wanted, found, strict=True)]
        sys.stdout.write(json.dumps({"model": name, "file": kind, **summary(partings)}) + "\n")
        sys.stdout.flush()


def conversion(given: argparse.Namespace, parent: Path) -> Path:
    """The checkpoint, searched once."""
    write_topics(given.work / "topics.txt")
    run: Path = given.work / "run"
    flags = ("--kv-ratio", given.kv_ratio, "--uneven", "--calibration-tokens", given.calibration_tokens)
    texts = (
        "--calibration-text",
        str(given.work / "topics.txt"),
        "--search-tokens",
        "2048",
        "--evaluation-tokens",
        "2048",
    )
    how = ("--refine", given.refine, "--no-baseline", "--target", "llama.cpp", "--output-dir", str(run))
    command = [sys.executable, "-m", "gqasearch", "search", "--model", str(parent), *flags, *texts, *how]
    if not (run / "metrics.json").is_file():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
    results: dict[str, Any] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["results"]
    sys.stdout.write(json.dumps({"model": "converted", "kl": results["converted"]["kl"]}) + "\n")
    return run / "model"


def in_f32(source: Path, target: Path) -> Path:
    """The file with all tensors in F32; dequantised ones with the float16 values that ``--model source`` reads."""
    if not target.is_file():
        gguf, file = import_gguf(), GgufFile(source)
        f32, plain = gguf.GGMLQuantizationType.F32, (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)

        def values(name: str) -> NDArray[np.float32]:
            read = file.values(name)
            return read if file.tensors[name].tensor_type in plain else read.astype(np.float16).astype(np.float32)

        tensors = [
            NewTensor(name, shape_of(tensor), f32, lambda name=name: values(name))  # type: ignore[misc]
            for name, tensor in file.tensors.items()
        ]
        write_gguf(target, file.metadata, tensors, int(file.value("general.alignment") or 32))
    return target


def exported(parent: Path, checkpoint: Path, target: Path, least: str) -> Path:
    """``export-gguf``, once."""
    if not target.is_file():
        flags = ("--checkpoint", str(checkpoint), "--output", str(target), "--least", least, "--quiet")
        command = [sys.executable, "-m", "gqasearch", "export-gguf", str(parent), *flags]
        subprocess.run(command, check=True)  # noqa: S603 - our own
    return target


def in_transformers(folder: Path, prompts: list[list[int]], ends: list[int], kept: Path) -> Rows:
    """Greedy tokens in float32, once. No text ends: llama.cpp is asked for that, too."""
    if not kept.is_file():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True).eval()
        write_file(kept, json.dumps([_greedy(model, prompt, ends) for prompt in prompts]))
    rows: Rows = json.loads(kept.read_text(encoding="utf-8"))
    return rows


def _greedy(model: Any, prompt: list[int], ends: list[int]) -> list[tuple[int, list[float]]]:
    found, ids, cache = [], torch.tensor([prompt]), None
    for _ in range(TOKENS):
        with torch.no_grad():
            out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        scores = out.logits[0, -1].clone()
        scores[ends] = -torch.inf
        best = scores.log_softmax(-1).topk(2)
        ids, cache = best.indices[:1][None], out.past_key_values
        found.append((int(best.indices[0]), best.values.tolist()))
    return found


def in_llamacpp(file: Path, prompts: list[list[int]], work: Path) -> Rows:
    """The same in llama.cpp, once."""
    got = work / f"{file.stem}-llamacpp.json"
    if not got.is_file():
        asked = work / "request.json"
        write_file(asked, json.dumps({"model": str(file), "prompts": prompts, "tokens": TOKENS}), overwrite=True)
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        with (work / "llamacpp.log").open("a") as log:
            command = [str(ENGINE), str(SCRIPT), str(asked), str(got)]
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)  # noqa: S603 - our own
    rows: Rows = json.loads(got.read_text(encoding="utf-8"))["rows"]
    return rows


def parting(mine: list[tuple[int, list[float]]], theirs: list[tuple[int, list[float]]]) -> Parting:
    """Where llama.cpp's tokens leave those of transformers."""
    same = next((place for place, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a[0] != b[0]), len(mine))
    noise = [abs(a[1][0] - b[1][0]) for a, b in zip(mine[:same], theirs[:same], strict=True)]
    margin = None if same == len(mine) else mine[same][1][0] - mine[same][1][1]
    return Parting(same, margin, noise)


def summary(partings: list[Parting]) -> dict[str, Any]:
    """Over all prompts."""
    margins = [round(one.margin, 4) for one in partings if one.margin is not None]
    return {
        "prompts alike": f"{sum(one.margin is None for one in partings)} of {len(partings)}",
        "tokens before they part": [one.same for one in partings],
        "margins there": margins,
        # The mean would be of the few places where an end token is likely: llama.cpp tells its probability, too.
        "noise": float(np.median([difference for one in partings for difference in one.noise])),
    }


if __name__ == "__main__":
    main()

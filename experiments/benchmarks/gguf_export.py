"""What a conversion of a quantised GGUF file loses when ``export-gguf`` rounds its attention a second time.

python -m experiments.benchmarks.gguf_export --model parent.gguf --run RUN --text FILE

RUN: of ``gqasearch search --model parent.gguf ... --target llama.cpp``, its checkpoint written, in layout stock; FILE:
other text than it was fitted on. KL to the parent on the last tokens of FILE: of the checkpoint, and of the same with
attention rounded to the parent's type, to Q8_0 and to F16, which are what ``--least Q4_0``, ``Q8_0`` and ``F16`` write
(blocks lie along rows, so that the order of rows does not matter). In one process, by the package gguf's own rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gqasearch.models import Parent, load_parent
from gqasearch.models.gguf import GgufFile, import_gguf

ROOM = 2**34  # bytes: all of a model in memory
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=8, help="of 256 tokens")
    given = parser.parse_args()
    parent = load_parent(str(given.model), room=ROOM)
    tokenizer: Any = parent.tokenizer
    tokens = tokenizer(given.text.read_text(encoding="utf-8"))["input_ids"][-256 * given.blocks :]
    ids = torch.tensor(tokens).view(-1, 256)
    wanted = predictions(parent, ids)
    own_type = GgufFile(given.model).tensors["blk.0.attn_k.weight"].tensor_type.name
    for kind in ("as the checkpoint has it", own_type, "Q8_0", "F16"):
        converted = load_parent(str(given.run / "model"), room=ROOM)
        errors = {name: [] for name in PROJECTIONS} if kind == "as the checkpoint has it" else round_to(converted, kind)
        found = predictions(converted, ids)
        kl = torch.nn.functional.kl_div(found, wanted, reduction="none", log_target=True).sum(-1)[:, :-1]
        row = {"attention": kind, "kl": float(kl.mean()), "tokens": kl.numel()}
        mean = {name: sum(values) / len(values) for name, values in errors.items() if values}
        sys.stdout.write(json.dumps(row | {"relative error": mean}) + "\n")
        sys.stdout.flush()


def predictions(model: Parent, ids: Tensor) -> Tensor:
    """Log-probabilities (N, T, V)."""
    with torch.no_grad():
        return torch.cat([model.model(block[None]).logits.log_softmax(-1) for block in ids])


def round_to(model: Parent, kind: str) -> dict[str, list[float]]:
    """Round the attention's matrices, in place; by projection, |rounded - own| / |own| of every layer."""
    gguf, errors = import_gguf(), {name: list[float]() for name in PROJECTIONS}
    wanted = gguf.GGMLQuantizationType[kind]
    for name, parameter in model.model.named_parameters():
        projection = name.split(".")[-2]
        if projection in PROJECTIONS and name.endswith("weight"):
            own = parameter.detach().float()
            rounded = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(own.numpy(), wanted), wanted))
            errors[projection].append(float((rounded - own).norm() / own.norm()))
            parameter.data = rounded.to(parameter.dtype)
    return errors


if __name__ == "__main__":
    main()

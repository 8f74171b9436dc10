"""A plain forward pass of a run's calibration text, as anyone would write it with transformers: what a run is held to.

python -m experiments.benchmarks.forward MODEL TOKENS DTYPE [TEXT]      # prints CPU seconds of the pass as JSON

Loading is not in the seconds. The pass is in batches of eight blocks of 256 tokens, as a run's.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM

from gqasearch.cli.messages import quiet_libraries
from gqasearch.config import build_config
from gqasearch.steps import Workspace


def forward_seconds(model: str, tokens: int, dtype: str, text: str = "embedded") -> dict[str, float]:
    """``cpu`` seconds of all threads, and ``tokens`` that were read."""
    work = Workspace(build_config({"model": model, "calibration_tokens": tokens, "calibration_text": text}))
    blocks = work.blocks("calibration")
    network = AutoModelForCausalLM.from_pretrained(work.source.directory, dtype=getattr(torch, dtype)).eval()
    with torch.inference_mode():
        network(input_ids=blocks.ids[:1, :8])  # libraries set themselves up
        started = time.process_time()
        for ids in blocks.ids.split(work.config.batch_blocks):
            network(input_ids=ids, use_cache=False)
    return {"cpu": time.process_time() - started, "tokens": float(blocks.tokens)}


if __name__ == "__main__":
    quiet_libraries(0)
    model_name, number, dtype_name, *texts = sys.argv[1:]
    print(json.dumps(forward_seconds(model_name, int(number), dtype_name, *texts)))

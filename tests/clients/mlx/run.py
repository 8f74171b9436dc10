"""Run in MLX's environment: MLX-LM's log-probabilities and greedy tokens, and the KV heads that its cache holds."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm import load
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache


def answer(request: dict) -> dict:
    try:
        model, _ = load(request["model"])
    except Exception as error:  # noqa: BLE001 - what it cannot load it says in many ways
        return {"version": version("mlx-lm"), "refused": f"{type(error).__name__}: {error}"}
    log_probs = []
    for prompt in request["prompts"]:
        logits = np.array(model(mx.array([prompt]))[0, -1], dtype=np.float64)[: request["vocab"]]
        shifted = logits - logits.max()
        log_probs.append((shifted - np.log(np.exp(shifted).sum())).tolist())
    cache = make_prompt_cache(model)
    steps = generate_step(mx.array(request["prompts"][-1]), model, max_tokens=request["new_tokens"], prompt_cache=cache)
    greedy = [int(token) for token, _ in steps]
    return {
        "version": version("mlx-lm"),
        "log_probs": log_probs,
        "greedy": greedy,
        "cached_heads": [layer.keys.shape[1] for layer in cache],
    }


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))

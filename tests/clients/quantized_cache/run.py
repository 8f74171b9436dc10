"""Run in the environment of QuantizedCache's backends: what a cache layer gives back, and logits of decoding."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import HQQQuantizedLayer, QuantizedCache, QuantoQuantizedLayer

LAYERS = {"quanto": QuantoQuantizedLayer, "hqq": HQQQuantizedLayer}
PACKAGES = {"quanto": "optimum-quanto", "hqq": "hqq"}


def settings(request: dict) -> dict:
    return {
        "nbits": request["bits"],
        "axis_key": request["axis"],
        "axis_value": request["axis"],
        "q_group_size": request["group"],
        "residual_length": request["residual"],
    }


def rounded(request: dict) -> list:
    x = torch.tensor(request["x"])
    layer = LAYERS[request["backend"]](**settings(request))
    layer.lazy_initialization(x, x)
    return layer._dequantize(layer._quantize(x, request["axis"])).tolist()


def decoded(request: dict) -> list:
    """Logits at every token: of a prompt as long as the residual, then token by token."""
    model = AutoModelForCausalLM.from_pretrained(request["model"]).eval()
    cache = QuantizedCache(request["backend"], model.config, **settings(request))
    ids = torch.tensor([request["ids"]])
    first = request["residual"]
    parts = [ids[:, :first], *ids[:, first:].split(1, 1)]
    with torch.no_grad():
        steps = [model(part, past_key_values=cache, use_cache=True).logits[0] for part in parts]
    return torch.cat(steps).tolist()


def answer(request: dict) -> dict:
    found = rounded(request) if "x" in request else decoded(request)
    package = PACKAGES[request["backend"]]
    return {"version": f"{package} {version(package)}", "found": found}


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))

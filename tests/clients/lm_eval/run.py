"""Run in lm-eval's environment: log-likelihoods of continuations through its Hugging Face backend."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from lm_eval.models.huggingface import HFLM


def answer(request: dict) -> dict:
    model = HFLM(
        pretrained=request["model"],
        tokenizer=request["model"],
        dtype="float32",
        device="cpu",
        batch_size=1,
        trust_remote_code=request["trust"],
    )
    asked = [(("", ""), request["prompts"][-1], continuation) for continuation in request["continuations"]]
    found = model._loglikelihood_tokens(asked, disable_tqdm=True)
    return {"version": version("lm_eval"), "found": [[float(value), bool(greedy)] for value, greedy in found]}


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))

"""Run in llama.cpp's environment: log-probabilities with quantised KV caches.

Of prompts after which a text ends, or a part of a character is likeliest, llama.cpp tells none: null.
"""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

import xllamacpp


def load(request: dict) -> xllamacpp.Server:
    """With flash attention, which quantised values need."""
    os.environ["LLAMA_ATTN_ROT_DISABLE"] = "0" if request["rotate"] else "1"
    parameters = xllamacpp.CommonParams()
    parameters.model.path = request["model"]
    parameters.n_ctx = request["context"]
    parameters.cache_type_k, parameters.cache_type_v = (
        getattr(xllamacpp.ggml_type, f"GGML_TYPE_{request[role].upper()}") for role in ("k", "v")
    )
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = parameters.fit_params = False
    parameters.cache_ram_mib = 0
    parameters.port = 0
    parameters.verbosity = 4  # llama.cpp says what its KV cache takes, and whether it is rotated
    return xllamacpp.Server(parameters)


def likeliest(server: xllamacpp.Server, prompt: list, most: int) -> list | None:
    """[token, log-probability] of the likeliest tokens."""
    answer = server.handle_completions({"prompt": prompt, "n_predict": 1, "n_probs": most, "temperature": 0.0})
    told = answer["choices"][0]["logprobs"]
    if told is None or not told["content"]:
        return None
    return [[entry["id"], entry["logprob"]] for entry in told["content"][0]["top_logprobs"]]


def next_token(server: xllamacpp.Server, prompt: list, request: dict) -> list | None:
    """Log-probabilities of all ``vocab`` tokens in their order, or of the ``most`` likeliest, with these."""
    found = likeliest(server, prompt, request.get("most", request.get("vocab")))
    if found is None or "most" in request:
        return found
    by_id = dict(found)
    return [by_id[token] for token in range(request["vocab"])]


def answer(request: dict) -> dict:
    try:
        server = load(request)
    except RuntimeError as error:
        return {"refused": str(error)}
    found = [next_token(server, prompt, request) for prompt in request["prompts"]]
    return {"version": f"xllamacpp {version('xllamacpp')}", "log_probs": found}


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))

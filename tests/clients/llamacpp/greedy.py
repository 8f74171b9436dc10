"""Run in llama.cpp's environment (.venv-clients/llamacpp): greedy tokens of a GGUF file, by ``greedy.py``."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import xllamacpp


def load(model: str) -> xllamacpp.Server:
    """Cache and attention in float32, so that weights alone decide what is rounded."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx = 512
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    # On CPUs flash attention computes in float16, whatever the cache is.
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = parameters.fit_params = False
    parameters.cache_ram_mib = 0
    parameters.port = 0
    return xllamacpp.Server(parameters)


def complete(server: xllamacpp.Server, prompt: list, tokens: int) -> list:
    """Ids of the new tokens, and for each the log-probabilities of the two most likely."""
    asked = {"prompt": prompt, "n_predict": tokens, "n_probs": 2, "temperature": 0.0, "ignore_eos": True}
    answer = server.handle_completions(asked)
    if "choices" not in answer:
        raise SystemExit(f"llama.cpp refused: {answer}")
    return [
        (step["id"], [entry["logprob"] for entry in step["top_logprobs"]])
        for step in answer["choices"][0]["logprobs"]["content"]
    ]


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    request = json.loads(asked.read_text())
    server = load(request["model"])
    rows = [complete(server, prompt, request["tokens"]) for prompt in request["prompts"]]
    got.write_text(json.dumps({"engine": f"xllamacpp {version('xllamacpp')}", "rows": rows}))

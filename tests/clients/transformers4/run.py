"""Run with transformers 4: log-probabilities, greedy tokens, and the heads that the cache holds."""

import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM


def answer(request: dict) -> dict:
    model, info = AutoModelForCausalLM.from_pretrained(request["model"], output_loading_info=True)
    assert not any(info.values()), info
    model.eval()
    count = request["new_tokens"]
    longest = torch.tensor([request["prompts"][-1]])
    with torch.no_grad():
        last = [model(torch.tensor([prompt])).logits[0, -1] for prompt in request["prompts"]]
        out = model.generate(
            longest,
            attention_mask=torch.ones_like(longest),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            return_dict_in_generate=True,
        )
    return {
        "version": transformers.__version__,
        "log_probs": torch.stack(last).double().log_softmax(-1).tolist(),
        "greedy": out.sequences[0, longest.shape[1] :].tolist(),
        "cached_heads": [layer.keys.shape[1] for layer in out.past_key_values.layers],
    }


if __name__ == "__main__":
    asked, got = map(Path, sys.argv[1:])
    assert transformers.__version__.startswith("4.")
    got.write_text(json.dumps([answer(request) for request in json.loads(asked.read_text())]))

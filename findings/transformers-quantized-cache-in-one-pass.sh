#!/usr/bin/env bash
# transformers 5.23.0: a QuantizedCache rounds what it keeps, and gives the first call back what it was given. Whoever
# passes it to one forward pass over a text, as perplexity is measured, measures the model without a rounded cache: the same
# logits to the last bit, at any number of bits. Decoded token by token the same cache shows what it does. The documentation
# of the class says nothing of it. Seen here with the fp8 backend, which needs no other package; quanto and hqq do the same.
#
# For us: gqasearch/evaluation/rounded.py measures as if every token had been decoded by itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import QuantizedCache

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.3
)
model = LlamaForCausalLM(config).eval()
ids = torch.randint(64, (1, 24))


def logits(cache, steps):
    with torch.no_grad():
        parts = [model(part, past_key_values=cache, use_cache=True).logits for part in ids.split(steps, dim=1)]
    return torch.cat(parts, 1)


plain = logits(None, 24)
once, decoded = (logits(QuantizedCache("fp8", model.config), steps) for steps in (24, 1))
print(f"transformers {transformers.__version__}, torch {torch.__version__}, QuantizedCache with backend fp8")
print(f"one pass over 24 tokens: logits differ by at most {float((once - plain).abs().max()):.3g}")
print(f"token by token:          logits differ by at most {float((decoded - plain).abs().max()):.3g}")
sys.exit(0 if torch.equal(once, plain) and float((decoded - plain).abs().max()) > 0.01 else "changed")
PYTHON

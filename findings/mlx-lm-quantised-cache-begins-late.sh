#!/usr/bin/env bash
# mlx-lm 0.32.2: kv_bits=8 rounds the KV cache only from 5,000 tokens on (quantized_kv_start), and whether the size of a head
# fits the groups of 64 is seen only then: a model with heads of 48 generates for 40 tokens, and raises ValueError in the
# middle of a text where the start is set to 16. Nothing is said when the model is loaded or the generation begins.
#
# For us: gqasearch doctor --target mlx says it before.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    mlx==0.32.4 mlx-cpu==0.32.4 mlx-lm==0.32.2 transformers==5.23.0 tokenizers==0.23.3 huggingface_hub==2.4.0 numpy==2.4.6
"$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import inspect
import sys
from importlib.metadata import version

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models import llama

mx.random.seed(0)
sizes = dict(hidden_size=96, num_hidden_layers=2, intermediate_size=96, num_attention_heads=2, num_key_value_heads=2)
model = llama.Model(llama.ModelArgs(model_type="llama", rms_norm_eps=1e-6, vocab_size=128, head_dim=48, **sizes))


def tokens(**more):
    made = 0
    try:
        for _ in generate_step(mx.array([1, 2, 3, 4]), model, max_tokens=40, kv_bits=8, **more):
            made += 1
    except ValueError as error:
        return made, str(error)
    return made, ""


default = inspect.signature(generate_step).parameters["quantized_kv_start"].default
late, early = tokens(), tokens(quantized_kv_start=16)
print(f"mlx-lm {version('mlx-lm')}: quantized_kv_start {default}, heads of 48, kv_bits 8, kv_group_size 64")
print(f"  by default {late[0]} tokens without an error; from 16 on {early[0]} tokens, then: {early[1]}")
sys.exit(0 if default == 5000 and late == (40, "") and 0 < early[0] < 40 and "group size" in early[1] else "changed")
PYTHON

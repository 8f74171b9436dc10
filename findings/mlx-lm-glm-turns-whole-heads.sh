#!/usr/bin/env bash
# mlx-lm 0.32.2: its GLM (GlmForCausalLM, glm-4-9b) turns all dimensions of a head by RoPE and does not read
# partial_rotary_factor, which is 0.5 in these models. The checkpoint loads without a word, and log-probabilities of the
# next token differ by more than 0.1 from transformers 5.23.0; with a factor of 1.0 in transformers they agree to 1e-4.
# Its GLM-4 (Glm4ForCausalLM) reads the factor and agrees.
#
# For us: --target mlx refuses GlmForCausalLM.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    mlx==0.32.4 mlx-cpu==0.32.4 mlx-lm==0.32.2 transformers==5.23.0 torch==2.13.0 tokenizers==0.23.3 \
    huggingface_hub==2.4.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import load_model
from transformers import GlmConfig, GlmForCausalLM

sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
prompt, seen = list(range(40, 72)), {}
for factor in (0.5, 1.0):
    torch.manual_seed(0)
    config = GlmConfig(
        **sizes, vocab_size=128, head_dim=32, initializer_range=0.3, pad_token_id=0, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": factor},
    )
    model = GlmForCausalLM(config).eval()
    model.save_pretrained(f"model-{factor}")
    with torch.no_grad():
        wanted = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).numpy()
    loaded, _ = load_model(Path(f"model-{factor}"))
    logits = np.array(loaded(mx.array([prompt]))[0, -1], dtype=np.float64)
    shifted = logits - logits.max()
    seen[factor] = float(np.abs(shifted - np.log(np.exp(shifted).sum()) - wanted).max())
print(f"mlx-lm {version('mlx-lm')}, transformers {version('transformers')}, a GLM that turns part of every head")
for factor, difference in seen.items():
    print(f"  partial_rotary_factor {factor}: log-probabilities differ by {difference:.1e}")
sys.exit(0 if seen[0.5] > 0.1 and seen[1.0] < 1e-4 else "changed")
PYTHON

#!/usr/bin/env bash
# mlx-lm 0.32.2: its Llama reads RoPE's base from the field rope_theta of config.json, where transformers 5 writes it as
# rope_parameters.rope_theta alone. A Llama with another base than 10000, saved by transformers 5.23.0, loads without a word
# and is another model: here (base 500000) log-probabilities of the next token differ by more than 0.1 from transformers',
# and by less than 1e-4 once rope_theta is written beside. Its Qwen3 reads both places.
#
# For us: config.json of converted checkpoints has both; gqasearch doctor --target mlx fails where they differ.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    mlx==0.32.4 mlx-cpu==0.32.4 mlx-lm==0.32.2 transformers==5.23.0 torch==2.13.0 tokenizers==0.23.3 \
    huggingface_hub==2.4.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import load_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.3,
    rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
)
model = LlamaForCausalLM(config).eval()
model.save_pretrained("model")
prompt = list(range(40, 72))
with torch.no_grad():
    wanted = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).numpy()


def difference() -> float:
    loaded, _ = load_model(Path("model"))
    logits = np.array(loaded(mx.array([prompt]))[0, -1], dtype=np.float64)
    shifted = logits - logits.max()
    return float(np.abs(shifted - np.log(np.exp(shifted).sum()) - wanted).max())


saved = json.loads(Path("model/config.json").read_text())
as_saved = difference()
Path("model/config.json").write_text(json.dumps({**saved, "rope_theta": 500000.0}))
beside = difference()
print(f"mlx-lm {version('mlx-lm')}, transformers {version('transformers')}")
print(f"  saved: rope_theta {saved.get('rope_theta')}, rope_parameters {saved['rope_parameters']}")
print(f"  log-probabilities differ by {as_saved:.1e}, with rope_theta beside by {beside:.1e}")
sys.exit(0 if "rope_theta" not in saved and as_saved > 0.1 and beside < 1e-4 else "changed")
PYTHON

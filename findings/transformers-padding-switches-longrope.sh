#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0: under longrope (Phi-3 and others) padding on the right changes the logits of the real
# tokens before it, although the mask excludes it.
#
# longrope has two sets of factors, and which one turns *all* tokens of a batch is decided by the largest position in it.
# Padding has positions too: a short document that is padded past original_max_position_embeddings is computed with the
# factors for long contexts. Up to that length padding changes nothing but the last bit.
#
# For us: text is measured without padding beyond the length of what stands in a batch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers

torch.manual_seed(0)
config = transformers.Phi3Config(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=64,
    original_max_position_embeddings=16,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    rope_parameters={
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 16,
    },
)
model = transformers.Phi3ForCausalLM(config).eval()
ids = torch.randint(3, 64, (1, 12))


@torch.no_grad()
def difference(padding: int) -> float:
    """Largest change of the 12 real tokens' logits."""
    padded = torch.cat([ids, torch.zeros(1, padding, dtype=torch.long)], 1)
    mask = (torch.arange(padded.shape[1]) < 12).long()[None]
    return float((model(padded, attention_mask=mask).logits[:, :12] - model(ids).logits).abs().max())


within, beyond = difference(4), difference(5)
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
print(f"12 tokens padded to 16: {within:.1e}")
print(f"12 tokens padded to 17: {beyond:.1e}")
sys.exit(0 if within < 1e-6 and beyond > 1e-4 else "changed: padding does as much (or as little) on both sides of 16")
PYTHON

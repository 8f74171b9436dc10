#!/usr/bin/env bash
# CTranslate2 4.8.5: its converter counts longrope among the kinds of RoPE that it supports, for every model that its
# general loaders read, and says "RoPE scaling type '...' is not yet implemented" of kinds that it does not. But of
# all of them only the loader of Phi-3 copies the two lists of factors. A Mistral or Llama whose config.json says longrope,
# which transformers 5.23.0 loads and runs, passes the check and ends in "Some required model attributes are not set",
# which names the long and the short list of every layer. With linear, of the same check, the same model is converted.
#
# For us: heads that were joined have longrope in config.json; --target ctranslate2 refuses them before the search.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    ctranslate2==4.8.5 transformers==5.23.0 torch==2.13.0 tokenizers==0.23.3 huggingface_hub==2.4.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import sys

import ctranslate2
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
lists = dict(short_factor=[1.0] * 8, long_factor=[1.0] * 8, original_max_position_embeddings=64)
ropes = {"linear": {"factor": 2.0}, "longrope": lists}
words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(8)}, unk_token="w0"))
seen = {}
for kind, own in ropes.items():
    config = MistralConfig(
        **sizes, vocab_size=8, head_dim=16, max_position_embeddings=64, sliding_window=None,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **own},
    )
    model = MistralForCausalLM(config).eval()
    runs = bool(torch.isfinite(model(torch.arange(8)[None]).logits).all())
    model.save_pretrained(kind)
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", bos_token="w1", eos_token="w2").save_pretrained(kind)
    try:
        TransformersConverter(kind).convert(f"{kind}-converted")
        seen[kind] = (runs, "converted")
    except ValueError as error:
        seen[kind] = (runs, " ".join(str(error).split()))
print(f"ctranslate2 {ctranslate2.__version__}, transformers {transformers.__version__}: runs in transformers; converter")
for kind, found in seen.items():
    print(f"  {kind}: {found}")
told = "Some required model attributes are not set"
right = seen["linear"] == (True, "converted") and seen["longrope"][0] and seen["longrope"][1].startswith(told)
sys.exit(0 if right and "rotary_scaling_long_factor" in seen["longrope"][1] else "changed")
PYTHON

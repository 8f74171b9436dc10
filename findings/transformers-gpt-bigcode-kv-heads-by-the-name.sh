#!/usr/bin/env bash
# transformers 5.23.0: GPTBigCodeConfig takes its number of heads as n_head or as num_attention_heads, two names of one field
# (attribute_map). num_key_value_heads, which it derives from that number, knows the first name alone: given the second it is
# that of the default of 12 heads, and is written so to config.json, from where it is read back.
#
# For us: of a GPT-BigCode gqasearch does not read num_key_value_heads; multi_query says whether there is one KV head or as
# many as query heads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    transformers==5.23.0 tokenizers==0.23.3 huggingface_hub==2.4.0 numpy==2.4.6 safetensors==0.8.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import json
import sys
from importlib.metadata import version

from transformers import GPTBigCodeConfig

found = {}
for name in ("n_head", "num_attention_heads"):
    config = GPTBigCodeConfig(**{name: 6}, n_embd=48, multi_query=False)
    config.save_pretrained(name)
    stored = json.load(open(f"{name}/config.json"))
    found[name] = (config.num_attention_heads, stored["num_key_value_heads"])
print(f"transformers {version('transformers')}: (heads, KV heads) by the name that 6 was given under: {found}")
sys.exit(0 if found == {"n_head": (6, 6), "num_attention_heads": (6, 12)} else "changed")
PYTHON

#!/usr/bin/env bash
# transformers 5.23.0 reads a GGUF file's configuration: of a Qwen3 it does not read attention.key_length, the size of the
# heads, and takes its own default of 128, whatever the file says. A Qwen3 has any size of heads; all published ones have 128.
# A small one with heads of 32, as its own code and llama.cpp compute it, cannot be loaded: tensors are of other shapes.
#
# For us: gqasearch reads the keys by itself, with the package gguf.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    gguf==0.19.0 transformers==5.23.0 torch==2.13.0 tokenizers==0.23.3 huggingface_hub==2.4.0 numpy==2.4.6 safetensors==0.8.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import sys
from importlib.metadata import version

import gguf
import numpy as np
from transformers import AutoConfig

writer = gguf.GGUFWriter("model.gguf", "qwen3")
for add, value in {"block_count": 1, "context_length": 64, "embedding_length": 96, "feed_forward_length": 64}.items():
    getattr(writer, f"add_{add}")(value)
writer.add_head_count(2)
writer.add_head_count_kv(2)
writer.add_key_length(32)
writer.add_value_length(32)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_tokenizer_model("gpt2")
writer.add_token_list(["a", "b"])
writer.add_tensor("token_embd.weight", np.zeros((2, 96), dtype=np.float32))
writer.add_tensor("blk.0.attn_q_norm.weight", np.zeros(32, dtype=np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
found = AutoConfig.from_pretrained(".", gguf_file="model.gguf").head_dim
print(f"transformers {version('transformers')}: the file says heads of 32, the configuration {found}")
sys.exit(0 if found == 128 else "changed")
PYTHON

#!/usr/bin/env bash
# transformers 5.23.0 makes a tokenizer of a GGUF file (from_pretrained(..., gguf_file=...)). How text is split before the
# merges is named in the file (tokenizer.ggml.pre); for names that it does not know (falcon, smollm, starcoder, command-r,
# deepseek-coder, olmo, ...) it splits as GPT-2 does, without a word. Here a file that says "falcon", which splits digits by
# threes, with merges that make 1234: transformers says one token, llama.cpp (xllamacpp 2026.10.11549) says 123 and 4.
#
# For us: gqasearch reads the tokenizer of a GGUF file by itself, refuses names that it does not know, and refuses a tokenizer
# whose tokens' own texts are cut otherwise, as happens where text is split in another way than the merges were learned with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    xllamacpp==2026.10.11549 gguf==0.19.0 transformers==5.23.0 torch==2.13.0 tokenizers==0.23.3 huggingface_hub==2.4.0 \
    numpy==2.4.6 safetensors==0.8.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import json
import sys
import urllib.request
from importlib.metadata import version

import gguf
import numpy as np
import xllamacpp
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

merges = ["1 2", "12 3", "123 4"]
tokens = [*sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges), "<s>", "</s>"]
writer = gguf.GGUFWriter("model.gguf", "llama")
for add, value in {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32}.items():
    getattr(writer, f"add_{add}")(value)
writer.add_head_count(1)
writer.add_head_count_kv(1)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_vocab_size(len(tokens))
writer.add_rope_dimension_count(32)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("falcon")
writer.add_token_list(tokens)
writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
writer.add_token_merges(merges)
writer.add_bos_token_id(len(tokens) - 2)
writer.add_eos_token_id(len(tokens) - 1)
names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
for name, shape in (shapes | {f"blk.0.{name}": (32, 32) for name in names}).items():
    writer.add_tensor(f"{name}.weight", np.zeros(shape, dtype=np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

theirs = AutoTokenizer.from_pretrained(".", gguf_file="model.gguf").tokenize("1234")
asked = xllamacpp.CommonParams()
asked.model.path, asked.n_ctx, asked.n_gpu_layers, asked.cpuparams.n_threads = "model.gguf", 64, 0, 1
asked.warmup = asked.fit_params = False
asked.cache_ram_mib = asked.port = 0
server = xllamacpp.Server(asked)
body = json.dumps({"content": "1234", "add_special": False}).encode()
request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
with urllib.request.urlopen(request) as answer:
    wanted = [tokens[index] for index in json.load(answer)["tokens"]]
server.handle_completions({"prompt": [1, 2], "n_predict": 1})
print(f"transformers {version('transformers')}: {theirs}; llama.cpp (xllamacpp {version('xllamacpp')}): {wanted}")
sys.exit(0 if (theirs, wanted) == (["1234"], ["123", "4"]) else "changed")
PYTHON

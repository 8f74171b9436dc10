#!/usr/bin/env bash
# transformers 5.23.0: a LlamaConfig takes per_layer_config with a number of KV heads of a layer's own, saves it and reads it
# back; LlamaForCausalLM of it raises AmbiguousGlobalPerLayerAttributeError, since its attention asks the config of the whole
# model. With allow_global_per_layer_attribute_access = True, which the error names, it is built, with a warning, and every
# layer has the number of the whole: per_layer_config does nothing.
#
# For us: counts that differ by layer need a layout that says them otherwise (deci, mimo, ragged); none is written through
# per_layer_config, though other converters now point at it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" 2> /dev/null <<'PYTHON'
import sys

import transformers
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2)
heads = dict(num_attention_heads=4, num_key_value_heads=4)
LlamaConfig(**sizes, **heads, per_layer_config={0: {"num_key_value_heads": 2}}).save_pretrained(sys.argv[1])
config = LlamaConfig.from_pretrained(sys.argv[1])
kept = [config.per_layer_config[layer].num_key_value_heads for layer in range(2)]
try:
    LlamaForCausalLM(config)
    raised = None
except Exception as error:
    raised = type(error).__name__
config.allow_global_per_layer_attribute_access = True
rows = [len(layer.self_attn.k_proj.weight) for layer in LlamaForCausalLM(config).model.layers]
print(f"transformers {transformers.__version__}: KV heads by layer as read {kept}; built: {raised}; allowed: rows of W_k {rows}")
sys.exit((kept, raised, rows) != ([2, 4], "AmbiguousGlobalPerLayerAttributeError", [32, 32]))
PYTHON

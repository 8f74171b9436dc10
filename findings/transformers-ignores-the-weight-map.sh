#!/usr/bin/env bash
# transformers 5.23.0: which shard the index of a checkpoint names for a tensor is not what is loaded. Every shard that is
# named for anything is read whole, and of a tensor that lies in two of them the copy in the later file wins, without a
# word.
#
# Stale copies come about where shards of two versions of a model meet in one folder. A program that goes by the index
# reads other weights than the model runs with.
#
# For us: tensors are listed as transformers reads them, and two copies that differ are refused by name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.23.0 safetensors==0.8.0
"$folder/venv/bin/python" - "$folder/model" <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

NAME = "model.norm.weight"
folder = Path(sys.argv[1])
config = LlamaConfig(
    vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
    architectures=["LlamaForCausalLM"],
)
config.save_pretrained(folder)
tensors = LlamaForCausalLM(config).state_dict()
head = tensors.pop("lm_head.weight")
stale = torch.full((8,), 7.0)


def loaded(copy_in_second_file: bool) -> float:
    """The norm's first weight; the index says that it lies in a.safetensors."""
    save_file(tensors, folder / "a.safetensors", metadata={"format": "pt"})
    second = {"lm_head.weight": head, **({NAME: stale} if copy_in_second_file else {})}
    save_file(second, folder / "b.safetensors", metadata={"format": "pt"})
    listed = {**dict.fromkeys(tensors, "a.safetensors"), "lm_head.weight": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return float(AutoModelForCausalLM.from_pretrained(folder).model.norm.weight[0])


alone, with_copy = loaded(False), loaded(True)
print(f"transformers {transformers.__version__}")
print(f"index: {NAME} lies in a.safetensors, where it is {float(tensors[NAME][0])}")
print(f"loaded: {alone}; with another copy in b.safetensors, which the index does not list: {with_copy}")
sys.exit(0 if (alone, with_copy) == (1.0, 7.0) else "changed: the copy that the index names is loaded")
PYTHON

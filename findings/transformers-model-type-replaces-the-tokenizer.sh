#!/usr/bin/env bash
# transformers 5.23.0: AutoTokenizer builds what tokenizer_config.json and tokenizer.json say, for nearly all model types
# that it knows, from the library's first ones to the latest. For a handful it does not: where config.json says qwen2,
# qwen3_5, qwen3_5_moe, qwen3_5_moe_text, qwen4_exp, hyperclovax_vision_v2 or siglip2, the class of that model takes the
# place of the tokenizer_class that is named, rebuilds the pre-tokenizer and gives other ids, without a word. Here a word
# that the vocabulary lacks is left out instead of being <unk>. qwen3, qwen2_moe and all others keep the tokenizer.
#
# So a checkpoint that is rewritten under another model type, its tokenizer files copied byte for byte, may read other
# tokens than before.
#
# For us: a checkpoint's tokenizer is held against its source's before a layer is merged, and one that its model_type would
# replace is given the source's class by name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    transformers==5.23.0 tokenizers==0.23.3 huggingface_hub==2.4.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> /dev/null <<'PYTHON'
import json
import sys

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained("it")
named = json.load(open("it/tokenizer_config.json"))["tokenizer_class"]
wanted, others, failed = AutoTokenizer.from_pretrained("it")("a b a c")["input_ids"], {}, 0
for name in sorted(CONFIG_MAPPING_NAMES):
    with open("it/config.json", "w") as file:
        json.dump({"model_type": name}, file)
    try:
        found = AutoTokenizer.from_pretrained("it")
    except Exception:  # a config that needs more than its type
        failed += 1
        continue
    if (ids := found("a b a c")["input_ids"]) != wanted:
        others[name] = f"{type(found).__name__} {ids}"
print(f"transformers {transformers.__version__}: tokenizer_class {named}, 'a b a c' is {wanted}")
print(f"the same of {len(CONFIG_MAPPING_NAMES) - len(others) - failed} model types; other ids of:")
for name, ids in others.items():
    print(f"  {name}: {ids}")
known = {"qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp", "hyperclovax_vision_v2", "siglip2"}
sys.exit(0 if set(others) == known else "changed")
PYTHON

#!/usr/bin/env bash
# transformers 5.23.0: a config.json that gives RoPE under its new name (rope_parameters) and its old one (rope_scaling)
# is read by the old one alone, whatever the two say, and nothing is printed.
#
# Files are written with both, so that versions 4 and 5 can read them. Where the old field says less than the new one
# (version 4 had no place for some of it), version 5 computes with the poorer of the two: of this file it takes neither
# YaRN nor its factor, but linear interpolation.
#
# For us: a converted checkpoint writes under the old name all that the new one says, and is held against its parent after
# it was written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.23.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import transformers

folder = Path(sys.argv[1])
config = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 128,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
}


def read() -> dict[str, object]:
    (folder / "config.json").write_text(json.dumps(config))
    return dict(transformers.AutoConfig.from_pretrained(folder).rope_parameters)


both = read()
del config["rope_scaling"]
alone = read()
print(f"transformers {transformers.__version__}")
print("both fields:         ", both)
print("rope_parameters alone:", alone)
as_found = both["rope_type"] == "linear" and both["factor"] == 2.0 and alone["rope_type"] == "yarn"
sys.exit(0 if as_found else "changed: rope_scaling no longer wins")
PYTHON

#!/usr/bin/env bash
# transformers 5.23.0: a Phi-3 whose rope_parameters say original_max_position_embeddings is read with 4096 in its place,
# unless the number stands outside of rope_parameters, too. Its advice about that very field is printed; that the number
# was dropped is not.
#
# Everything longrope does depends on it: which factors are used from which length on, and how scores are scaled.
#
# For us: the length at which a source's factors change is the one that transformers computes with, not the file's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.23.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import transformers

FIELD = "original_max_position_embeddings"
rope = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
    FIELD: 16,
}


def read(**outside: int) -> int:
    config = transformers.Phi3Config(
        hidden_size=32, num_attention_heads=4, max_position_embeddings=64, rope_parameters=dict(rope), **outside
    )
    return int(config.rope_parameters[FIELD])


inside, both = read(), read(**{FIELD: 16})
print(f"transformers {transformers.__version__}")
print(f"16 in rope_parameters alone: read as {inside}")
print(f"16 there and outside:        read as {both}")
sys.exit(0 if (inside, both) == (4096, 16) else "changed: the number in rope_parameters is no longer replaced by 4096")
PYTHON

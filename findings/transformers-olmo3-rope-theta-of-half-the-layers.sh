#!/usr/bin/env bash
# transformers 5.23.0: of a config.json of OLMo 3 the field rope_theta is heeded in the layers with full attention alone;
# those with a sliding window, three of four, compute with 500000 whatever stands there, and nothing is printed.
#
# OLMo 2's class, and every other that has one base for all layers, takes the field for all of them. What is written by
# version 5 itself names both bases (rope_parameters), so only files in the older words are concerned.
#
# For us: the bases of a converted checkpoint are written for both kinds of layers, as this version runs the source, and
# the checkpoint is held against its parent after it was written.
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


def read(kind: str) -> dict[str, object]:
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "rope_theta": 10000.0}))
    return dict(transformers.AutoConfig.from_pretrained(folder).rope_parameters)


two, three = read("olmo2"), read("olmo3")
print(f"transformers {transformers.__version__}, config.json with rope_theta 10000")
print("OLMo 2:", two)
print("OLMo 3:", three)
bases = [three[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention")]
as_found = two["rope_theta"] == 10000.0 and bases == [10000.0, 500000.0]
sys.exit(0 if as_found else "changed: both kinds of layers have the base that stands in config.json")
PYTHON

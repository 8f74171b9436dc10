#!/usr/bin/env bash
# transformers 5.23.0: a bfloat16 model that is loaded in float32 with every module on disk (device_map={"": "disk"}) to save
# memory has all its weights read and converted while it is loaded, and dropped again: loading takes as much resident
# memory as there are weights. On the "meta" device none is read.
#
# A container's limit counts these pages as the process's own at that moment, and a machine that is short of memory
# reads the whole checkpoint once for nothing.
#
# For us: models on demand are made with that one read left out (gqasearch/models/skeleton.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 safetensors==0.8.0
cat > "$folder/load.py" <<'PYTHON'
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM


def peak() -> int:
    """MiB; ru_maxrss would be that of the process which started this one, where that was larger."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def load(name: str) -> None:
    folder = f"{sys.argv[1]}/{name}"
    AutoModelForCausalLM.from_pretrained(folder, dtype="float32", device_map={"": sys.argv[2]})


load("small")  # what libraries take
before = peak()
load("large")
print(peak() - before)
PYTHON
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import transformers
from transformers import LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1])
for name, layers in (("small", 1), ("large", 12)):
    config = LlamaConfig(
        vocab_size=64, hidden_size=1024, intermediate_size=4096, num_hidden_layers=layers, num_attention_heads=16
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder / name)
size = (folder / "large" / "model.safetensors").stat().st_size >> 20


def added(place: str) -> int:
    """MiB that loading the larger model adds to the peak of resident memory."""
    done = subprocess.run([sys.executable, folder / "load.py", folder, place], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


disk, meta = added("disk"), added("meta")
print(f"transformers {transformers.__version__}: {size} MiB of weights, all of them to stay on disk")
print(f'added to the peak of resident memory by loading: "disk" {disk} MiB, "meta" {meta} MiB')
sys.exit(0 if disk > size / 2 > 4 * meta else "changed: loading to disk no longer reads all weights")
PYTHON

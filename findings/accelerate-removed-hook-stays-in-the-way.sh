#!/usr/bin/env bash
# accelerate 1.15.0: remove_hook_from_module does not leave a module as it was. The hook is gone, but the module keeps a
# "forward" of its own, bound to what its class had when the hook was added. It hides the class's from then on: a class
# whose forward is replaced later (as transformers' and peft's patches do), or another class given to the module, is
# without effect, and nothing says so. A module that never had a hook takes both.
#
# transformers puts such hooks on every module of a model that it loads with device_map="disk" or over several devices.
#
# For us: what is left there is taken away after the hooks (gqasearch/models/loading_on_demand.py), as decoder layers are called
# in other ways than their class's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import accelerate
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module


class Answer(torch.nn.Module):
    def forward(self):
        return "as written"


never, once = Answer(), Answer()
add_hook_to_module(once, ModelHook())
remove_hook_from_module(once)
Answer.forward = lambda self: "as patched"
print(f"accelerate {accelerate.__version__}, torch {torch.__version__}")
print(f"the class is patched: a module without a hook answers {never()!r}, one that had one {once()!r}")
print(f"forward among its own attributes: {'forward' in vars(never)} and {'forward' in vars(once)}")
sys.exit(0 if (never(), once(), "forward" in vars(once)) == ("as patched", "as written", True) else "changed")
PYTHON

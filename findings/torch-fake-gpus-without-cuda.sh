#!/usr/bin/env bash
# torch 2.13.0 built for CPUs: FakeTensorMode, whose tensors have a device and a shape but no values, offers GPUs that are
# not there, and finds a product of tensors on two of them. Only as far as no operator is asked for its device's guard,
# though: tensors on a fake "cuda:0" are made and multiplied, but cannot be indexed. So a test that is to find tensors that
# meet across devices fails in the first attention mask, on the machines without a GPU that it is written for.
#
# The device type "lazy" needs no guard: any number of its devices can be faked, and whole transformers models run there
# (with eager attention).
#
# For us: tests/models/test_spread.py runs layers that are spread over two devices on fake "lazy" ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def tried(what) -> str:
    try:
        with FakeTensorMode():
            return str(what().device)
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"


if torch.backends.cuda.is_built():
    sys.exit("this torch is built for CUDA: the finding is about one that is not")
print(f"torch {torch.__version__}")
found = {}
for kind in ("cuda", "lazy"):
    one, other = f"{kind}:0", f"{kind}:1"
    found[kind] = (
        tried(lambda: torch.ones(2, 3, device=other) @ torch.ones(3, 2, device=other)),
        tried(lambda: torch.ones(2, 3, device=one) @ torch.ones(3, 2, device=other)),
        tried(lambda: torch.ones(2, 3, device=other)[:, None]),
    )
    print(f"{kind}: product {found[kind][0]}; across devices {found[kind][1]}; indexed {found[kind][2]}")
same = (
    found["cuda"][0] == "cuda:1"
    and "same device" in found["cuda"][1]
    and "not linked with support for cuda" in found["cuda"][2]
    and found["lazy"] == ("lazy:1", found["cuda"][1].replace("cuda", "lazy"), "lazy:1")
)
sys.exit(0 if same else "changed")
PYTHON

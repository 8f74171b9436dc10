#!/usr/bin/env bash
# torch 2.13.0: how a broadcast right side of a matmul reaches the matrix product depends on the size of the batch: with one
# problem as a transposed view with stride 0, with two as a copy that lies in order.
#
# Both are right to rounding. But libraries take other paths for the two, so on some processors a problem's result has other
# bits when it is computed alone than beside others: here seven tests of equal bits failed on one make of processor and
# passed on another.
#
# For us: where a result must not depend on what is computed beside it, the right side is copied for every problem first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Strides(TorchDispatchMode):
    """Notes the strides of the right side of every batched product."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.bmm:
            self.found.append(args[1].stride())
        return func(*args, **(kwargs or {}))


def right_side(batch: int) -> tuple[int, ...]:
    heads, common = torch.randn(batch, 3, 4, 4), torch.randn(batch, 1, 4, 4)
    with Strides() as mode:
        heads @ common.mT
    return tuple(mode.found[0])


one, two = right_side(1), right_side(2)
print(f"torch {torch.__version__}")
print(f"strides of the right side, one problem: {one}; two problems: {two}")
sys.exit(0 if one == (0, 1, 4) and two == (16, 4, 1) else "changed")
PYTHON

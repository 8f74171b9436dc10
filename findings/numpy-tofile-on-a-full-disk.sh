#!/usr/bin/env bash
# numpy 2.4.6, Linux: ndarray.tofile on a disk that is full. Up to a few kilobytes it returns as if all were well, and the
# file is empty: the values are in a buffer, and that writing it out fails is not looked at. A larger array raises OSError
# without an errno ("1000000 requested and 0 written"), so that nothing can tell a full disk from another fault. A plain
# file.write of the same bytes raises OSError 28, "No space left on device", in both cases.
#
# /dev/full stands for the disk: whatever is written to it finds no room.
#
# For us: hidden states that do not fit into memory are written with file.write (gqasearch/calibration/hidden_states.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np


def plain(array) -> None:
    with open("/dev/full", "wb") as file:
        file.write(memoryview(array).cast("B"))


def said(write) -> str:
    try:
        write()
    except OSError as error:
        return f"OSError, errno {error.errno}"
    return "no error"


found = {}
print(f"numpy {np.__version__}")
for size in (10, 10**6):
    array = np.ones(size)
    found[size] = (said(lambda: array.tofile("/dev/full")), said(lambda: plain(array)))
    print(f"{size} numbers: tofile: {found[size][0]}; file.write: {found[size][1]}")
same = found == {
    10: ("no error", "OSError, errno 28"),
    10**6: ("OSError, errno None", "OSError, errno 28"),
}
sys.exit(0 if same else "changed")
PYTHON

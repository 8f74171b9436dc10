#!/usr/bin/env bash
# ray 2.60.0: ray.init puts a handler of its own in place of the program's for SIGTERM, and ray.shutdown leaves it there.
#
# A program that stops cleanly on SIGTERM, which schedulers and containers send, no longer does after ray.init: the handler
# exits with the signal's number as its status.
#
# For us: the handler is put back as soon as Ray runs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ray==2.60.0
HOME="$folder" RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" - <<'PYTHON'
import signal
import sys

import ray


def ours(*_):
    raise KeyboardInterrupt


signal.signal(signal.SIGTERM, ours)
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
during = signal.getsignal(signal.SIGTERM)
ray.shutdown()
after = signal.getsignal(signal.SIGTERM)
status = None
try:
    after(signal.SIGTERM, None)
except SystemExit as stop:
    status = stop.code
print(f"ray {ray.__version__}")
print(f"after ray.init ours: {during is ours}; after ray.shutdown ours: {after is ours}; its exit status: {status}")
sys.exit(0 if during is not ours and after is not ours and status == 15 else "changed")
PYTHON

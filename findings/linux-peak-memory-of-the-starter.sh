#!/usr/bin/env bash
# Linux 6.x, Python 3.11: a process that was just started says as its peak of resident memory (ru_maxrss, from getrusage,
# os.wait4 and tools built on them) that of the process which started it, where that was larger. exec carries the
# record over. VmHWM in /proc/self/status is the process's own.
#
# A benchmark that loads its results with pandas and then starts what it measures reads its own size instead.
#
# For us: measured commands are started by a process of a few megabytes (experiments/benchmarks/apart.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/small.py" <<'PYTHON'
import resource

own = open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, int(own) // 1024)
PYTHON
python3 - "$folder/small.py" <<'PYTHON'
import platform
import subprocess
import sys


def peaks() -> tuple[int, int]:
    """MiB that the same small program says of itself: ru_maxrss and VmHWM."""
    said = subprocess.run([sys.executable, sys.argv[1]], capture_output=True, text=True, check=True).stdout.split()
    return int(said[0]), int(said[1])


before = peaks()
ballast = bytearray(300 << 20)
ballast[:: 4096] = b"x" * len(ballast[:: 4096])
after = peaks()
print(f"Python {platform.python_version()}, {platform.system()} {platform.release().split('-')[0]}")
print(f"started by a small process: ru_maxrss {before[0]} MiB, VmHWM {before[1]} MiB")
print(f"started by one of 300 MiB:  ru_maxrss {after[0]} MiB, VmHWM {after[1]} MiB")
sys.exit(0 if before[0] < 100 and after[0] >= 300 and after[1] < 100 else "changed: ru_maxrss is the process's own")
PYTHON

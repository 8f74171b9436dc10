"""A command in a process of its own, measured alone: wall clock, CPU seconds, peak of resident memory.

Linux counts the peak of a process that starts another towards that other's ``ru_maxrss``. So a small one, this file
run as a script with nothing but the standard library, stands between whoever measures and what is measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

POLL_SECONDS = 0.2
DONE = "done"


@dataclass(frozen=True)
class Limits:
    """Beyond ``gigabytes`` (10^9 bytes) resident or ``seconds`` of wall clock a command is killed; 0 is no limit."""

    gigabytes: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What a command took, its children that it waited for included.

    ``outcome``: "done", or why it ended otherwise. ``cpu``: seconds in user and system mode of all threads.
    ``peak``: bytes resident at most, pages of mapped files among them.
    """

    outcome: str
    wall: float
    cpu: float
    peak: int


def measured_apart(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path, limits: Limits
) -> Measured:
    """Run ``command`` in ``folder``; what it prints goes to ``log``."""
    own = [sys.executable, "-I", "-S", __file__, str(limits.gigabytes), str(limits.seconds), str(log), *command]
    result = subprocess.run(  # noqa: S603 - this very file
        own, cwd=folder, env=dict(environment), capture_output=True, text=True, check=True
    )
    return Measured(**json.loads(result.stdout))


def measure(command: Sequence[str], log: Path, limits: Limits) -> Measured:
    """As ``measured_apart``, with this process as the one that starts it."""
    started, killed = time.monotonic(), ""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        while True:
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)
            if ended:
                break
            if not killed and (killed := _beyond(child.pid, started, limits)):
                os.kill(child.pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
    except BaseException:  # stopped ourselves
        child.terminate()
        raise
    wall, child.returncode = time.monotonic() - started, os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(
        killed or _outcome(child.returncode, log), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit
    )


def _beyond(process: int, started: float, limits: Limits) -> str:
    """Which limit it is beyond, in words; "" for none."""
    if limits.seconds and time.monotonic() - started > limits.seconds:
        return f"stopped after {limits.seconds:g} s"
    if limits.gigabytes and _resident(process) > limits.gigabytes * 1e9:
        return f"stopped at {limits.gigabytes:g} GB"
    return ""


def _resident(process: int) -> int:
    """Bytes resident now; 0 where /proc does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _outcome(code: int, log: Path) -> str:
    if code == 0:
        return DONE
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"signal {-code}" if code < 0 else f"exit {code}: {lines[-1] if lines else ''}"


def main() -> None:
    """Arguments: gigabytes, seconds, log, command. Prints ``Measured`` as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the command is stopped, too
    gigabytes, seconds, log, *command = sys.argv[1:]
    found = measure(command, Path(log), Limits(float(gigabytes), float(seconds)))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()

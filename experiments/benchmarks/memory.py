"""Peak memory of a conversion, in a process of its own that has converted a tiny checkpoint before.

python -m experiments.benchmarks.memory SOURCE GROUPING OUT    # Linux; prints bytes as JSON
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from experiments.benchmarks.checkpoints import llama_config, make_checkpoint, random_grouping
from gqasearch.cli.messages import quiet_libraries
from gqasearch.config import build_config
from gqasearch.grouping_document import read_grouping
from gqasearch.models import ModelSource
from gqasearch.steps import Workspace, materialize

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measured_apart(source: Path, grouping: Path, out: Path) -> dict[str, int]:
    """Bytes resident ``before`` the conversion of ``source``, and ``added`` to that at its peak."""
    command = [sys.executable, "-m", "experiments.benchmarks.memory", *map(str, (source, grouping, out))]
    result = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - this very file
    found: dict[str, int] = json.loads(result.stdout.splitlines()[-1])
    return found


def workspace(folder: Path) -> Workspace:
    """Of a run on the checkpoint in ``folder``; nothing is loaded yet."""
    return Workspace(build_config({"model": str(folder)}))


def convert_measured(source: Path, grouping: Path, out: Path) -> dict[str, int]:
    """As ``measured_apart``, here."""
    with tempfile.TemporaryDirectory() as name:
        tiny = Path(name)
        make_checkpoint(llama_config(layers=2, hidden=32, heads=4, vocab=64), tiny / "source", 2)
        document = random_grouping(ModelSource(tiny / "source", ""), "mean", 2)
        materialize(workspace(tiny / "source"), document, tiny / "out")
    return added_peak(lambda: materialize(workspace(source), read_grouping(grouping), out))


def added_peak(step: Callable[[], object]) -> dict[str, int]:
    """Bytes resident ``before`` the step, and ``added`` to that at its peak.

    Resident pages are all that count: those of libraries, of the heap, and of files that are mapped.
    """
    gc.collect()
    CLEAR.write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = _status("VmRSS")
    step()
    return {"before": before, "added": _status("VmHWM") - before}


def _status(field: str) -> int:
    """A size of this process in bytes."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{STATUS} has no {field}")


if __name__ == "__main__":
    quiet_libraries(0)
    print(json.dumps(convert_measured(*map(Path, sys.argv[1:4]))))

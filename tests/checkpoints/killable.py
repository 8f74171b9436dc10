"""A conversion that is hit by a signal just before its n-th operation on a file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

from gqasearch.cli.messages import quiet_libraries
from gqasearch.config import build_config
from gqasearch.grouping_document import read_grouping
from gqasearch.steps import Workspace, materialize


def digest(folder: Path) -> str:
    """Names and bytes of all files in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def send_before(operation: int, number: int, folder: Path) -> None:
    """This process gets signal ``number`` before its ``operation``-th operation on files in ``folder``, from 1."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event.split(".")[0] in ("open", "os", "shutil") and str(folder) in "".join(map(str, arguments)):
            seen += 1
            if seen == operation:
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def convert(source: Path, grouping: Path, out: Path) -> None:
    materialize(Workspace(build_config({"model": str(source)})), read_grouping(grouping), out)


def hit_at_operations(source: Path, grouping: Path, out: Path, number: signal.Signals, step: int, told: Path) -> None:
    """For every ``step``-th n until no operation is left; appends to ``told`` a line of JSON for each.

    How the process ended, and what there is then of the output, beside it, and of the source.
    """
    warnings.simplefilter("ignore")
    quiet_libraries(0)
    convert(source, grouping, out)  # what is imported late is there now, for every child
    before, complete = digest(source), digest(out)
    shutil.rmtree(out)
    for operation in range(1, 1000, step):
        child = os.fork()
        if child == 0:
            send_before(operation, number, out.parent)
            try:
                convert(source, grouping, out)
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        state = {
            "ended": ended,
            "source unchanged": digest(source) == before,
            "written": (digest(out) == complete) if out.exists() else None,
            "beside": [path.name for path in out.parent.iterdir() if path.name != out.name],
        }
        with told.open("a", encoding="utf-8") as file:
            file.write(json.dumps(state) + "\n")
        if ended == 0:
            return
        if out.exists():
            shutil.rmtree(out)

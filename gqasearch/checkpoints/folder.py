"""What lies beside the weights of a checkpoint, taken along."""

from __future__ import annotations

import shutil
from pathlib import Path

from gqasearch.models.companions import companions


def copy_companions(source: Path, target: Path) -> None:
    """Copy what belongs beside the weights, byte for byte: a tokenizer that is saved again may come out another."""
    for file in companions(source):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target / file)

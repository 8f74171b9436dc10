"""The text that the embedded model is trained on: everything but the held-out modules.

Two sources: the standard library as ``gqasearch.embedded.training_text`` selects it, and the sources of the packages
installed in the training environment. A file that shares too many lines with a held-out module (setuptools vendors
tarfile and zipp, for instance) is left out.
"""

from __future__ import annotations

import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from gqasearch.embedded.training_text import TrainingReader, source_files

SKIPPED_PACKAGES = {"pygments", "fontTools", "cffi", "mypyc", "torchgen", "identify", "idna"}  # tables, mostly
MOST_PER_PACKAGE = 5_000_000  # characters


@dataclass(frozen=True)
class Corpus:
    """Training documents: the standard library's, and those of installed packages."""

    stdlib: list[str]
    packages: list[str]
    left_out: list[str]  # names of the files dropped for overlap


def build_corpus(seed: int = 0) -> Corpus:
    """Collect the training documents; deterministic for one environment and seed."""
    rng = random.Random(seed)
    reader = TrainingReader()
    stdlib = [document.text for document in reader.standard_library()]
    packages: list[str] = []
    site = Path(sysconfig.get_path("purelib"))
    for folder in sorted(p for p in site.iterdir() if p.is_dir() and p.name not in SKIPPED_PACKAGES):
        files = list(source_files(folder))
        rng.shuffle(files)
        taken = 0
        for path in files:
            document = reader.read(path, path.relative_to(site).as_posix())
            if document and taken < MOST_PER_PACKAGE:
                packages.append(document.text)
                taken += len(document.text)
    return Corpus(stdlib, packages, reader.left_out)

"""What a folder's work is made from besides its settings: what lies behind the names of the model and the texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.files import read_json, write_json
from gqasearch.steps.texts import used_texts
from gqasearch.steps.workspace import Workspace

MODEL = "model"


def inputs_of(work: Workspace) -> dict[str, str]:
    """The model's identity, and fingerprints of the tokens of every text that the run looks at."""
    texts = {f"{split} text": work.blocks(split).fingerprint for split in used_texts(work)}
    return {MODEL: work.source.identity, **texts}


def hold_inputs(file: Path, found: Mapping[str, str], folder: Path) -> None:
    """Note in ``file`` what the work in ``folder`` is made from; where that is noted, ``require_same_inputs``."""
    if file.is_file():
        require_same_inputs(folder, read_json(file), found)
    else:
        write_json(file, dict(found))


def require_same_inputs(folder: Path, known: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise ``UserError`` that names what is no longer what the work in ``folder`` was begun with.

    What came out would be half of one model or text and half of another.
    """
    differ = [name for name, value in found.items() if known.get(name, value) != value]
    if differ:
        raise UserError(
            f"{folder} was begun with another {' and another '.join(differ)} under the same name: what lies there was "
            "changed since (embedded text is that of your Python's version). Put it back, or give another --output-dir"
        )

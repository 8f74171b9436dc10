"""A folder that appears under its name only when it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from gqasearch.errors import UserError
from gqasearch.files import aside_of, remove_abandoned

# What a user of the checkpoint needs beside weights and config.json, copied byte for byte: tokenizers
# that are loaded and saved again do not always come out the same.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "added_tokens.json",
    "chat_template*.*",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Gives a temporary folder beside ``path`` to fill; on leaving, it is renamed to ``path``.

    On any exception, Ctrl-C included, the temporary folder is removed and ``path`` is not made.
    Raises ``UserError`` when ``path`` exists and is not an empty folder, and when the disk is full.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} exists already and is not an empty folder; checkpoints are not overwritten")
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        aside.mkdir()
        yield aside
        for file in aside.iterdir():
            file.chmod(0o644)  # safetensors saves 0600, which no other user of the machine could read
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write checkpoint {path}: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def copy_companions(source: Path, target: Path) -> None:
    """Copy tokenizer, generation settings and licence, as far as the source has them."""
    for pattern in COMPANIONS:
        for file in sorted(source.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, target / file.name)

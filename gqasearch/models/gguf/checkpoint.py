"""The checkpoint folder of a GGUF file, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.files import cache_root
from gqasearch.folders import new_folder
from gqasearch.models.gguf.architectures import architecture_of_file
from gqasearch.models.gguf.file import GgufFile
from gqasearch.models.gguf.keys import Keys
from gqasearch.models.gguf.tokenizer import GgufTokenizer
from gqasearch.models.gguf.weights import GgufWeights
from gqasearch.models.loading import load_tokenizer
from gqasearch.models.sample_text import SAMPLE

FORMAT = 1  # raise when what is made of a file changes: older folders are then not found


def gguf_folder(path: Path) -> Path:
    """The folder in the cache that holds the model of this file, named by what is in the file; written if need be.

    Raises ``UserError`` for a file that is damaged, that says what is not understood here, or whose tensors are not
    exactly those of the model that it describes.
    """
    path = path.resolve()
    try:
        state = path.stat()
        digest = _digest(path, (state.st_size, state.st_mtime_ns))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    folder = cache_root() / "gguf" / f"{digest[:32]}-{FORMAT}"
    if not (folder / "config.json").is_file():
        try:
            write_folder(GgufFile(path), folder)
        except UserError:
            if not (folder / "config.json").is_file():  # else another process wrote the same meanwhile
                raise
    return folder


@lru_cache(maxsize=8)
def _digest(path: Path, state: tuple[int, int]) -> str:  # noqa: ARG001 - tells of a file that was written anew
    """SHA-256 of the content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder(file: GgufFile, out_dir: Path) -> None:
    """Write the model of ``file`` as a checkpoint; ``out_dir`` appears only when it is complete."""
    architecture = architecture_of_file(file)
    keys = Keys(file, architecture.name)
    config = architecture.config(keys)
    keys.require_all_read()
    tokenizer = GgufTokenizer(file, config["vocab_size"])
    config |= tokenizer.special_ids()
    weights = GgufWeights(file, architecture, config)
    weights.names  # noqa: B018 - for its errors, before anything is written
    with new_folder(out_dir) as folder:
        weights.write(folder / "model.safetensors")
        tokenizer.write(folder, config)
        text = json.dumps(config | {"dtype": str(weights.dtype).removeprefix("torch.")}, indent=2, sort_keys=True)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        _require_same_tokens(tokenizer, folder)


def _require_same_tokens(tokenizer: GgufTokenizer, folder: Path) -> None:
    """Raise ``UserError`` where transformers, which chooses a class by the model's type, loads another tokenizer."""
    loaded = load_tokenizer(folder)
    if loaded(SAMPLE)["input_ids"] != tokenizer.tokenizer.encode(SAMPLE).ids or len(loaded) > tokenizer.vocabulary:
        raise UserError(
            f"{tokenizer.file.path}: transformers makes another tokenizer ({type(loaded).__name__}) of what the file "
            "says of its own"
        )

"""Where a model given by the user lies: embedded, a folder, or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gqasearch.embedded import model_directory
from gqasearch.errors import UserError

# What a checkpoint needs: weights as safetensors, configuration, tokenizer. Never pickles.
WANTED_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer*", "*.model", "LICENSE*", "README.md"]


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint folder on this machine, and the hub revision it came from ("" for none)."""

    directory: Path
    revision: str


def resolve_model(model: str, revision: str | None = None) -> ModelSource:
    """Find ``embedded``, a folder, or download a hub id; raises ``UserError`` when nothing is there."""
    if model == "embedded":
        return ModelSource(model_directory(), "")
    path = Path(model).expanduser()
    if path.is_dir():
        return ModelSource(path.resolve(), "")
    if path.exists():
        raise UserError(f"--model {model} is a file; give the checkpoint's folder")
    if path.is_absolute() or model.startswith(("./", "../", "~")) or model.count("/") != 1:
        raise UserError(
            f"--model {model}: no such folder. Give 'embedded', a checkpoint folder, or a hub id (org/name)"
        )
    return _from_hub(model, revision)


def _from_hub(model: str, revision: str | None) -> ModelSource:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=WANTED_FILES))
    except Exception as error:  # offline, unknown repository, gated: the hub's own words say which
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--model {model}: no such folder here, and the hub did not give it: {first}") from error
    return ModelSource(folder, folder.name)

"""Write a checkpoint that was trained further: the same files, with other values."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from gqasearch.checkpoints.card import NOT_HEALED
from gqasearch.checkpoints.conversion import cast, convertible
from gqasearch.checkpoints.folder import new_folder
from gqasearch.checkpoints.shards import Shards
from gqasearch.errors import UserError
from gqasearch.models import CheckpointTensors


def write_healed(source_dir: Path, out_dir: Path, model: nn.Module, words: str) -> None:
    """Write ``source_dir`` to ``out_dir`` with the weights of ``model``, which was loaded from it.

    Shards, names and dtypes stay, and so do all other files but for the model card, in which ``words`` take the place
    of the sentence that nothing was fine-tuned. ``out_dir`` appears only when complete; raises ``UserError`` where it
    exists and is not empty, and where the model has a parameter that is not among the files' tensors.
    """
    source = CheckpointTensors(source_dir)
    found = _by_stored_name(source, model)
    shards = Shards(source, {name: tuple(tensor.shape) for name, tensor in found.items()})

    def convert(name: str) -> Mapping[str, Tensor]:
        return {name: cast(found[name].detach(), convertible(name, source.stored(name).dtype), name)}

    with new_folder(out_dir) as folder:
        for file in sorted(source_dir.iterdir()):
            if file.is_file() and file.name not in source.shards:
                shutil.copyfile(file, folder / file.name)
        shards.write(folder, convert)
        _note_on_card(folder / "README.md", words)


def _by_stored_name(source: CheckpointTensors, model: nn.Module) -> dict[str, Tensor]:
    """Stored name -> the model's tensor; some checkpoints leave the first part of every name out."""
    state = dict(model.named_parameters(remove_duplicate=False))
    bare = {name.partition(".")[2]: name for name in state}
    names = {name: name if name in state else bare.get(name) for name in source.shard_of}
    found: dict[str, Tensor] = {name: state[own] for name, own in names.items() if own is not None}
    written = {id(tensor) for tensor in found.values()}
    missing = [name for name, tensor in state.items() if id(tensor) not in written]
    if missing:
        raise UserError(f"{source.directory} has no tensor {missing[0]}, which was trained")
    return found


def _note_on_card(card: Path, words: str) -> None:
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        card.write_text(text.replace(NOT_HEALED, words), encoding="utf-8")

"""Write a checkpoint that was trained further: the same files, with other values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gqasearch.checkpoints.card import healed_card
from gqasearch.checkpoints.conversion import cast, convertible
from gqasearch.checkpoints.folder import copy_companions
from gqasearch.checkpoints.healed_back import check_healed_back
from gqasearch.checkpoints.loaded_back import CheckBlock, LoadedBack
from gqasearch.checkpoints.same_tokenizer import keep_tokenizer
from gqasearch.checkpoints.shards import Shards
from gqasearch.errors import UserError
from gqasearch.files import read_json
from gqasearch.folders import new_folder
from gqasearch.models import CheckpointTensors, read_config
from gqasearch.models.companions import written_beside
from gqasearch.models.tensors import current_name

HEALING = "healing.json"


def is_healed(folder: Path) -> bool:
    """Whether this checkpoint was trained after its conversion."""
    return (folder / HEALING).is_file()


def write_healed(
    source_dir: Path,
    out_dir: Path,
    model: nn.Module,
    words: str,
    record: Mapping[str, Any] | None = None,
    block: CheckBlock | None = None,
) -> LoadedBack:
    """Write ``source_dir`` to ``out_dir`` with the weights of ``model``, which was loaded from it.

    Shards, names and dtypes stay, and so do what the conversion wrote beside them and the companions, but for the model
    card, to which ``words`` are added (``healed_card``). ``record``: how it was trained, written as ``healing.json``
    with that of the training ``before``, if there was one; its presence says that no tensor need be the parent's.

    ``block``: what the checkpoint is loaded back and run on, and ``model`` too; drawn from the vocabulary if not given.

    ``out_dir`` appears only when complete; raises ``UserError`` where it exists and is not empty, where the model
    has a parameter that is not among the files' tensors, and where what was written computes something else than it.
    """
    source = CheckpointTensors(source_dir)
    found = _by_stored_name(source, model)
    shards = Shards(source, {name: tuple(tensor.shape) for name, tensor in found.items()})

    def convert(name: str) -> Mapping[str, Tensor]:
        return {name: cast(found[name].detach(), convertible(name, source.stored(name).dtype), name)}

    with new_folder(out_dir) as folder:
        for file in written_beside(source_dir):
            shutil.copyfile(source_dir / file, folder / file)
        copy_companions(source_dir, folder)
        shards.write(folder, convert)
        before = read_json(source_dir / HEALING) if is_healed(source_dir) else None
        told = {**(record or {}), **({"before": before} if before is not None else {})}
        (folder / HEALING).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        if (folder / "README.md").is_file():
            card = (folder / "README.md").read_text(encoding="utf-8")
            (folder / "README.md").write_text(healed_card(card, words), encoding="utf-8")
        keep_tokenizer(source_dir, folder)
        dtypes = {id(tensor): convertible(name, source.stored(name).dtype) for name, tensor in found.items()}
        block = block or CheckBlock.drawn(read_config(source_dir))
        return check_healed_back(folder, model, dtypes, block)


def _by_stored_name(source: CheckpointTensors, model: nn.Module) -> dict[str, Tensor]:
    """Stored name -> the model's tensor; some checkpoints leave the first part of every name out."""
    state = dict(model.named_parameters(remove_duplicate=False))
    bare = {name.partition(".")[2]: name for name in state}
    current = {name: current_name(name) for name in source.shard_of}
    names = {name: own if own in state else bare.get(own) for name, own in current.items()}
    found: dict[str, Tensor] = {name: state[own] for name, own in names.items() if own is not None}
    written = {id(tensor) for tensor in found.values()}
    missing = [name for name, tensor in state.items() if id(tensor) not in written]
    if missing:
        raise UserError(f"{source.directory} has no tensor {missing[0]}, which was trained")
    return found

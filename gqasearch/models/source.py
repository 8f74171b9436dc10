"""Where a model given by the user lies: embedded, a folder, a GGUF file, or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from gqasearch.embedded import model_directory
from gqasearch.errors import UserError
from gqasearch.models.companions import WANTED_FILES
from gqasearch.models.families import family_of, read_config
from gqasearch.models.family import Config, Family
from gqasearch.models.gguf import gguf_folder, is_gguf
from gqasearch.models.identity import identity_of
from gqasearch.models.layer import HeadGeometry, LayerWeights
from gqasearch.models.loading import whole_tensors
from gqasearch.models.tensors import CheckpointTensors, fingerprint, require_finite


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint folder on this machine, and the hub revision it came from ("" for none).

    Its weights are read from the files, a layer at a time, and the model is never made; ``Parent`` is the one that
    runs.
    """

    directory: Path
    revision: str

    @cached_property
    def config(self) -> Config:
        """``config.json``; raises ``UserError`` where there is none."""
        return read_config(self.directory)

    @cached_property
    def family(self) -> Family:
        """Raises ``UserError`` for an architecture that is not supported."""
        return family_of(self.config)

    @property
    def geometry(self) -> HeadGeometry:
        return self.family.geometry(self.config)

    @cached_property
    def tensors(self) -> CheckpointTensors:
        """Raises ``UserError`` where they are not those of the model that ``config.json`` describes."""
        return whole_tensors(self.directory)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of the weights, as stored."""
        return fingerprint(self.tensors)

    @cached_property
    def identity(self) -> str:
        """``identity_of`` the model."""
        return identity_of(self.fingerprint, self.config)

    def layer(self, index: int) -> LayerWeights:
        """One layer's attention weights by head, in the dtype they are stored in.

        Raises ``UserError`` for a tensor that is missing or not finite.
        """

        def read(name: str) -> Tensor:
            name = self.family.stored_name(name, self.tensors.shard_of)
            tensor = self.tensors.read(name)
            require_finite(tensor, self.directory, name)
            return tensor

        return self.family.read_layer(read, index, self.config)


def resolve_model(model: str, revision: str | None = None) -> ModelSource:
    """Find ``embedded``, a folder, a GGUF file (its folder in the cache, made if need be), or download a hub id.

    Raises ``UserError`` when nothing is there, and for a ``revision`` of what is no hub id.
    """
    path = Path(model).expanduser()
    if revision is not None and (model == "embedded" or path.exists()):
        raise UserError(f"--revision {revision} is of models on the hub; {model} has none here: leave it out")
    if model == "embedded":
        return ModelSource(model_directory(), "")
    if path.is_dir():
        return ModelSource(path.resolve(), "")
    if path.is_file() and is_gguf(path):
        return ModelSource(gguf_folder(path), "")
    if path.exists():
        raise UserError(f"--model {model} is a file, and no GGUF file; give the checkpoint's folder")
    if path.is_absolute() or model.startswith(("./", "../", "~")) or model.count("/") != 1:
        raise UserError(
            f"--model {model}: no such file or folder. Give 'embedded', a checkpoint folder, a GGUF file, or a hub id "
            "(org/name)"
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

"""A model that is in memory and in no folder, where a folder is asked for its configuration and weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gqasearch.errors import UserError
from gqasearch.models.family import Config, Family
from gqasearch.models.layer import LayerWeights
from gqasearch.models.parent import Parent
from gqasearch.models.source import ModelSource
from gqasearch.models.tensors import CheckpointTensors


@dataclass(frozen=True)
class InMemory(ModelSource):
    """Says of ``loaded`` what a ``ModelSource`` says of its folder."""

    loaded: Parent

    @classmethod
    def of(cls, loaded: Parent) -> InMemory:
        """The model itself, not a copy. Its ``directory`` is a name for messages."""
        return cls(Path(loaded.id), "", loaded)

    @cached_property
    def config(self) -> Config:
        return self.loaded.config

    @cached_property
    def family(self) -> Family:
        return self.loaded.family

    @cached_property
    def tensors(self) -> CheckpointTensors:
        """None: raises ``UserError``."""
        raise UserError(f"{self.loaded.id} is in memory only, and this needs its files: save it, and give the folder")

    @cached_property
    def fingerprint(self) -> str:
        return self.loaded.fingerprint

    def layer(self, index: int) -> LayerWeights:
        return self.loaded.layer(index)

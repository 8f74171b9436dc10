"""A checkpoint that is looked at, and what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from gqasearch.checkpoints.heads_in_config import kv_heads_of, query_heads_of, shape_of
from gqasearch.doctor.engines import ENGINES, Engine, EngineName
from gqasearch.errors import UserError
from gqasearch.grouping_document import read_grouping
from gqasearch.models import Config, read_config
from gqasearch.models.family import joined_of, text_of
from gqasearch.targets import LayoutName

Severity = Literal["fails", "warning", "ok"]
OF_ARCHITECTURE: tuple[tuple[str, LayoutName], ...] = (
    ("Ragged", "ragged"),
    ("DeciLM", "deci"),
    ("MiMo", "mimo"),
    ("OpenELM", "openelm"),
    ("AnyModel", "anymodel"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``fails`` where the engine refuses the checkpoint or computes something else."""

    check: str
    severity: Severity
    words: str


@dataclass(frozen=True)
class Patient:
    """A checkpoint folder on its way into ``engine_name``.

    ``tensor_parallel``: devices that share every layer; ``cache``: format of the KV cache as the user will ask for it.
    """

    folder: Path
    engine_name: EngineName
    tensor_parallel: int = 1
    cache: str | None = None

    @property
    def engine(self) -> Engine:
        return ENGINES[self.engine_name]

    @cached_property
    def config(self) -> Config:
        """Of a model that reads images, too, with the fields of its text model beside those of the whole.

        Raises ``UserError`` for a folder without a ``config.json`` that names an architecture.
        """
        config = read_config(self.folder)
        if not config.get("architectures"):
            raise UserError(f"{self.folder}/config.json names no architecture")
        return {**text_of(config), **config}

    @property
    def text(self) -> Config:
        """The fields of the text model; the same but for models that read images, too."""
        return text_of(self.config)

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])

    @cached_property
    def layout(self) -> LayoutName:
        """Of a checkpoint without a ``grouping.json`` that is no layout of ours: taken for symmetric."""
        for start, layout in OF_ARCHITECTURE:
            if self.architecture.startswith(start):
                return layout
        path = self.folder / "grouping.json"
        if not path.is_file():
            return "stock-symmetric"
        own = read_grouping(path).model.num_attention_heads
        return "stock-symmetric" if set(self.query_heads) == {own} else "stock-padded"

    @cached_property
    def query_heads(self) -> list[int]:
        """Of every layer, (L,)."""
        return query_heads_of(self.config)

    @cached_property
    def kv_heads(self) -> list[int]:
        """Of every layer, (L,)."""
        return kv_heads_of(self.config)

    @property
    def head_dim(self) -> int:
        return shape_of(self.config).head_dim

    @property
    def joined(self) -> int:
        """See ``gqasearch.models.joined``."""
        return joined_of(self.config)

    def has(self, *names: str) -> bool:
        """Whether all of these files are in the folder."""
        return all((self.folder / name).is_file() for name in names)


Check: TypeAlias = Callable[[Patient], Iterator[Finding]]

"""The folder of a healing run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gqasearch.config import read_config_file
from gqasearch.errors import UserError
from gqasearch.heal_config import HealConfig, build_heal_config
from gqasearch.run.run_folder import RunFolder

# Settings that every healing run has and no search.
OWN_SETTINGS = {"steps", "loss", "parent"}


@dataclass(frozen=True)
class HealFolder(RunFolder):
    """As a run's, with the text as blocks of tokens and no search: every file appears whole or not at all."""

    @property
    def tokens(self) -> Path:
        """What is trained on, packed."""
        return self.path / "state" / "tokens.npy"

    @property
    def states(self) -> Path:
        """Where training stands."""
        return self.path / "state"

    @property
    def trained(self) -> Path:
        """What training came to, until it stands in ``metrics.json``."""
        return self.path / "state" / "trained.json"

    @property
    def parent_top(self) -> Path:
        """The parent's likeliest tokens."""
        return self.path / "state" / "parent"

    def settings(self) -> HealConfig:
        """The configuration that the run was started with."""
        if not is_heal_folder(self.path):
            raise UserError(f"{self.path} is no folder of a healing run; give another --output-dir")
        return build_heal_config(read_config_file(self.config))


def is_heal_folder(path: Path) -> bool:
    """Whether ``gqasearch heal`` made this folder."""
    config = path / "config.yaml"
    values: dict[str, Any] = read_config_file(config) if config.is_file() else {}
    return values.keys() >= OWN_SETTINGS

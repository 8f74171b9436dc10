"""The comparison folder: what lies where, and that it holds one comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from gqasearch.comparison.comparison_config import ComparisonConfig, build_comparison
from gqasearch.comparison.conditions import Condition, Entry
from gqasearch.config import read_config_file
from gqasearch.errors import UserError
from gqasearch.files import write_file, write_json
from gqasearch.run import RunFolder
from gqasearch.run.run_folder import environment, holds_other_things, refuse_other, take_lock

# Which groupings are ranked.
RANDOM, TOP = "random", "top"


@dataclass(frozen=True)
class ComparisonFolder:
    """``runs/NAME/``; every file appears whole or not at all."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "comparison.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def facts(self) -> Path:
        """What is compared, on which model and texts."""
        return self.path / "facts.json"

    @property
    def ranking(self) -> Path:
        return self.path / "ranking.csv"

    @property
    def winners(self) -> Path:
        return self.path / "winners.csv"

    @property
    def sample_table(self) -> Path:
        return self.path / "sample.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def groupings(self, condition: Condition, pool: str) -> Path:
        """Groupings to rank: the random ones of a KV ratio, or the top ones of a condition."""
        where = f"ratio-{condition.kv_ratio:g}" if pool == RANDOM else condition.name
        return self.path / "sample" / where / f"{pool}.json"

    def values(self, condition: Condition) -> Path:
        """What was measured of them."""
        return self.path / "sample" / condition.name / "values.csv"

    def run(self, condition: Condition, entry: Entry, seed: int) -> RunFolder:
        """The run of one winner."""
        return RunFolder(self.path / "winners" / condition.name / entry.name / f"seed-{seed}")

    def acquire(self) -> FileLock:
        """Take the lock or say who is in the way."""
        return take_lock(FileLock(self.path / ".lock"))

    def open(self, config: ComparisonConfig) -> None:
        """Begin or resume. Raises ``UserError`` that names every setting that differs, or for other things in it."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is no folder; give another --output-dir")
        if self.config.is_file():
            refuse_other(self.path, "comparison", self.read_config(), config)
        elif holds_other_things(self.path):
            raise UserError(f"{self.path} exists and holds no comparison; give another --output-dir")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_file(self.config, config.to_yaml())  # first: its presence makes the folder a comparison
        if not self.environment.is_file():
            write_json(self.environment, environment())

    def read_config(self) -> ComparisonConfig:
        """The configuration that the comparison was started with."""
        if not self.config.is_file():
            raise UserError(f"{self.path} holds no comparison: it has no {self.config.name}")
        return build_comparison(read_config_file(self.config))

"""YAML files: of a run, a sweep or a comparison, each for a command of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gqasearch.errors import UserError
from gqasearch.settings import Settings

RUN, SWEEP, COMPARISON = "run", "sweep", "comparison"
TAKEN_BY = {
    RUN: "gqasearch search --config {}",
    SWEEP: "gqasearch sweep {}",
    COMPARISON: "gqasearch compare --config {}",
}


def read_config(path: Path, kind: str) -> dict[str, Any]:
    """The mapping in a YAML file, unchecked but for its kind: raises ``UserError`` where it is of another."""
    from gqasearch.config import RunConfig, read_config_file

    values = read_config_file(path)
    if kind != RUN or not values.keys() <= RunConfig.model_fields.keys():
        found = kind_of(values)
        if found not in (None, kind):
            raise _other_kind(path, str(found), kind)
    return values


def refuse_yaml(path: Path) -> None:
    """Raise ``UserError`` for a YAML file where a grouping's JSON belongs."""
    if path.suffix in (".yaml", ".yml") and path.is_file():
        from gqasearch.config import read_config_file

        raise _other_kind(path, kind_of(read_config_file(path)) or RUN, "grouping")


def kind_of(values: dict[str, Any]) -> str | None:
    """Which kind of file has most of these names; None where none has one, or several have as many."""
    from gqasearch.comparison.comparison_config import ComparisonConfig
    from gqasearch.config import RunConfig
    from gqasearch.sweeps.definition import Sweep

    models: dict[str, type[Settings]] = {RUN: RunConfig, SWEEP: Sweep, COMPARISON: ComparisonConfig}
    known = {kind: len(values.keys() & model.model_fields.keys()) for kind, model in models.items()}
    most = [kind for kind, count in known.items() if count == max(known.values())]
    return most[0] if len(most) == 1 else None


def _other_kind(path: Path, found: str, wanted: str) -> UserError:
    return UserError(f"{path} is the file of a {found}, not of a {wanted}: {TAKEN_BY[found].format(path)}")

"""Which layout loads where: what the tests of a run measured, as a table after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, get_args

from gqasearch.targets import LayoutName

PROPERTY = "client"


@dataclass(frozen=True)
class Record:
    """One checkpoint in one engine: ``difference``, or the reason why it was ``refused``.

    ``kv_bytes``: the engine's own figure for its KV cache is what the grouping promises; ``note``: what had to be
    done by hand.
    """

    client: str
    version: str
    layout: str
    model: str
    difference: float | None = None
    kv_bytes: bool = False
    refused: str = ""
    note: str = ""

    def write(self, record_property: Callable[[str, object], None]) -> None:
        """Add it to the test's report, which reaches the summary from other processes too."""
        record_property(PROPERTY, asdict(self))


def table(properties: Iterable[tuple[str, Any]]) -> list[str]:
    """Lines of a Markdown table of layouts by engines; a cell that no test filled is empty."""
    records = [Record(**value) for name, value in properties if name == PROPERTY]
    clients = list(dict.fromkeys((record.client, record.version) for record in records))
    layouts = [name for name in get_args(LayoutName) if any(r.layout == name for r in records)]
    lines = ["| layout | " + " | ".join(f"{client} ({version})" for client, version in clients) + " |"]
    lines.append("|---" * (len(clients) + 1) + "|")
    for layout in layouts:
        cells = [
            _cell([r for r in records if (r.client, r.version) == client and r.layout == layout]) for client in clients
        ]
        lines.append(f"| {layout} | " + " | ".join(cells) + " |")
    return lines if records else []


def _cell(records: list[Record]) -> str:
    """The largest difference over the models, their names, and whether the KV cache was checked; or the refusals."""
    loaded = [record for record in records if record.difference is not None]
    parts = []
    if loaded:
        largest = max(record.difference or 0.0 for record in loaded)
        kv = ", KV bytes as promised" if all(record.kv_bytes for record in loaded) else ""
        models = [record.model + (f" {record.note}" if record.note else "") for record in loaded]
        parts.append(f"{largest:.1e}{kv}: {', '.join(models)}")
    parts += [f"refused: {reason}" for reason in dict.fromkeys(r.refused for r in records if r.refused)]
    return "; ".join(parts)

"""How far written checkpoints are from their parents with tied heads, by family and layout: a table after the tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from gqasearch.models import Parent

PROPERTY = "equality"
# Layout -> what docs/serve.md, whose table this is, calls it.
LAYOUTS = {"identity": "identity", "stock-symmetric": "`stock`, symmetric", "stock-padded": "`stock`, padded"}
LAYOUTS |= {name: f"`{name}`" for name in ("deci", "ragged", "mimo", "openelm", "anymodel")}


@dataclass(frozen=True)
class Record:
    """Largest |difference| of logits, float32, of one checkpoint; ``family``: the source's architecture.

    ``layout``: ``identity`` for one in which nothing was merged, held against the parent itself.
    """

    family: str
    layout: str
    difference: float


FOUND: list[Record] = []  # by the test that runs


def note(parent: Parent, written: PreTrainedModel, difference: float, *, identity: bool = False) -> None:
    """Tell of a checkpoint that was compared with its parent; ``identity``: one in which nothing was merged."""
    layout = "identity" if identity else _layout(parent, written)
    FOUND.append(Record(parent.config["architectures"][0], layout, difference))


def properties() -> list[tuple[str, dict[str, Any]]]:
    """What the test that ends found, for its report, which reaches the summary from other processes too."""
    found = [(PROPERTY, asdict(record)) for record in FOUND]
    FOUND.clear()
    return found


def table(properties: Iterable[tuple[str, Any]]) -> list[str]:
    """Lines of a Markdown table of families by layouts: the largest difference; empty where no test compared any."""
    records = [Record(**value) for name, value in properties if name == PROPERTY]
    if not records:
        return []
    lines = [f"| source | {' | '.join(LAYOUTS.values())} |", "|---" * (len(LAYOUTS) + 1) + "|"]
    for family in sorted({record.family for record in records}):
        mine = [record for record in records if record.family == family]
        cells = [[record.difference for record in mine if record.layout == layout] for layout in LAYOUTS]
        lines.append(f"| {family} |{'|'.join(f' {_short(max(cell))} ' if cell else ' ' for cell in cells)}|")
    return lines


def _short(difference: float) -> str:
    return f"{difference:.1e}".replace("e-0", "e-") if difference else "0"


def _layout(parent: Parent, written: PreTrainedModel) -> str:
    name = "AnyModel" if hasattr(written.config, "base_architecture") else type(written).__name__
    if name.startswith("Ragged"):
        return "ragged"
    for start, layout in (("Deci", "deci"), ("MiMo", "mimo"), ("OpenELM", "openelm"), ("AnyModel", "anymodel")):
        if name.startswith(start):
            return layout
    same = written.config.get_text_config().num_attention_heads == parent.geometry.num_attention_heads
    return "stock-symmetric" if same else "stock-padded"

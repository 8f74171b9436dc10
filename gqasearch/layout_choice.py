"""The forms of a checkpoint that a user may ask for."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from gqasearch.errors import nearest

LAYOUT_GROUP = "gqasearch.layouts"  # of entry points
# See gqasearch.checkpoints.plan_layout.
OWN = ("auto", "stock", "deci", "ragged", "mimo", "openelm", "anymodel")
FORMS_OF_STOCK = ("symmetric", "padded", "query-padded")


def _known(value: str) -> str:
    """Say which name to give for what the docs call by other words, and which there are."""
    if value in FORMS_OF_STOCK:
        raise ValueError(f"{value!r} is a form of 'stock', which is symmetric or padded as the groups' sizes want it")
    names = [*OWN, *sorted({point.name for point in entry_points(group=LAYOUT_GROUP)} - set(OWN))]
    if value not in names:
        listed = ", ".join(map(repr, names[:-1]))
        raise ValueError(f"must be {listed} or {names[-1]!r}, got {value!r}{nearest(value, names)}")
    return value


LayoutChoice: TypeAlias = Annotated[str, AfterValidator(_known)]

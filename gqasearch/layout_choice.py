"""The forms of a checkpoint that a user may ask for."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator

FORMS_OF_STOCK = ("symmetric", "padded", "query-padded")


def _no_form_of_stock(value: Any) -> Any:
    """Say which name to give for what the docs call by other words."""
    if value in FORMS_OF_STOCK:
        raise ValueError(f"{value!r} is a form of 'stock', which is symmetric or padded as the groups' sizes want it")
    return value


# See gqasearch.checkpoints.plan_layout.
LayoutChoice: TypeAlias = Annotated[
    Literal["auto", "stock", "deci", "ragged", "mimo", "openelm"], BeforeValidator(_no_form_of_stock)
]

"""Bounds on group sizes: the checks that every exact method starts with."""

from __future__ import annotations

from gqasearch.errors import UserError


def check_bounds(num_heads: int, num_groups: int, smallest: int, largest: int) -> None:
    """Raise ``UserError`` unless some partition of the heads has so many groups of these sizes."""
    if not 1 <= num_groups <= num_heads:
        raise UserError(f"number of groups must be in 1..{num_heads}, got {num_groups}")
    check_sizes(num_heads, smallest, largest)
    if not num_groups * smallest <= num_heads <= num_groups * largest:
        raise UserError(
            f"{num_heads} heads cannot be split into {num_groups} groups of {smallest} to {largest} heads; "
            f"change the bounds on group size or the number of groups"
        )


def check_sizes(num_heads: int, smallest: int, largest: int) -> None:
    """Raise ``UserError`` unless 1 <= smallest <= largest <= num_heads."""
    if not 1 <= smallest <= largest <= num_heads:
        raise UserError(
            f"group sizes must satisfy 1 <= smallest <= largest <= {num_heads}, got {smallest} and {largest}"
        )


def possible_sizes(num_heads: int, num_groups: int, smallest: int, largest: int) -> range:
    """Sizes that a group can have in some partition: the others need their heads too.

    >>> possible_sizes(8, 4, 1, 8)
    range(1, 6)
    >>> possible_sizes(8, 4, 1, 2)
    range(2, 3)
    """
    others = num_groups - 1
    return range(max(smallest, num_heads - others * largest), min(largest, num_heads - others * smallest) + 1)

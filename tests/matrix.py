"""What of a full matrix runs in every `make test`, and what is left to `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest
from hypothesis import settings

from tests.tiny_models import ALL_FAMILY_NAMES, kv_head_choices

# One of each kind of layer: plain RoPE; biases; head norms; partial RoPE with biases; biases without RoPE. The other
# families differ from one of these in names and files, not in what is computed.
KINDS = ("llama", "qwen2", "qwen3", "gpt_neox", "opt")
# The same with a number of KV heads for 6 query heads.
GROUPED_KINDS = (("llama", 6), ("llama", 3), ("qwen2", 3), ("qwen3", 6), ("gpt_neox", 6), ("opt", 6))


def sampled(every: Iterable[Any], kept: Iterable[Any]) -> list[Any]:
    """All cases of a parametrisation, those not ``kept`` for `make test-all` alone."""
    cases, often = list(every), list(kept)
    if unknown := [case for case in often if case not in cases]:
        raise ValueError(f"not among the cases: {unknown}")
    return [case if case in often else nightly(case) for case in cases]


def thinned(*axes: Iterable[Any], always: Iterable[Any] = ()) -> list[Any]:
    """The product of axes: every third case, so that each value has its turn; all with a first value in ``always``."""
    whole = set(always)
    found = []
    for indexed in product(*map(enumerate, axes)):
        case = tuple(value for _, value in indexed)
        often = sum(index for index, _ in indexed) % 3 == 0 or case[0] in whole
        found.append(case if often else nightly(case))
    return found


def nightly(case: Any) -> Any:
    """One case of a parametrisation, for `make test-all` alone; a tuple has a value for each name."""
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.nightly)


def values_of(case: Any) -> tuple[Any, ...]:
    """The values of a case of ``sampled`` or ``thinned``."""
    return tuple(getattr(case, "values", case))


def examples(many: int) -> int:
    """Examples of a property test whose examples cost more than most: ``many`` in `make test-all`, else a quarter."""
    return many if settings().max_examples >= 100 else max(many // 4, 3)


FAMILIES = sampled(ALL_FAMILY_NAMES, KINDS)
SOURCES = sampled(((family, kv) for family in ALL_FAMILY_NAMES for kv in kv_head_choices(family)), GROUPED_KINDS)

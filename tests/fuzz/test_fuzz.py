"""A few of the cases that ``python -m tests.fuzz`` draws; all that it draws by default in `make test-all`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.case import run_case
from tests.matrix import sampled


@pytest.mark.parametrize("seed", sampled(range(200), (0, 30, 51, 56, 73)))  # the last four ended in faults once
def test_a_run_refuses_or_gives_its_parent_with_tied_heads(seed: int, tmp_path: Path) -> None:
    case = run_case(seed, tmp_path)
    assert not case.fault, f"{case.steps} {case.command}\n{case.fault}"

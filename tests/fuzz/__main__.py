"""Many cases: ``python -m tests.fuzz --cases 200 --first 0`` prints every seed that ended in a fault, and a count."""

from __future__ import annotations

import argparse
import collections
import tempfile
from pathlib import Path

from tests import conftest  # noqa: F401 - a scratch home, no network
from tests.fuzz.case import run_case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    for seed in range(options.first, options.first + options.cases):
        with tempfile.TemporaryDirectory() as folder:
            case = run_case(seed, Path(folder))
        counts["fault" if case.fault else case.outcome.partition(":")[0]] += 1
        if case.fault or options.verbose:
            print(f"seed {seed}: {'; '.join(case.steps)}\n  gqasearch {' '.join(case.command)}")
            print(f"  {'FAULT ' + case.fault if case.fault else case.outcome}\n", flush=True)
    print(f"seeds {options.first} to {options.first + options.cases - 1}: {dict(counts)}")
    return 1 if counts["fault"] else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Does the suite notice? One place of the code at a time is broken in a copy of the tree, and the suite is run there.

``python -m tests.mutants`` prints which broken copy failed which test; it ends with 1 where more than one of them
passed all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", "__pycache__", "runs", "sweeps", ".*_cache", ".hypothesis")
ALLOWED = 1  # mutants that may pass


@dataclass(frozen=True)
class Mutant:
    """``old`` in ``file`` becomes ``new``; ``first``: where in the tests it should be noticed, which are run first."""

    file: str
    old: str
    new: str
    first: str


MUTANTS = (
    # The merges and what they cost.
    Mutant("merging/shared_rotated.py", "self.heads).conj() * pairs.roots", "self.heads) * pairs.roots", "merging"),
    Mutant("merging/shared_rotated.py", "found.maps[0].mT[:, back]", "found.maps[0][:, back]", "merging"),
    Mutant("merging/error.py", "- 2 * product(q_read, q_new", "- product(q_read, q_new", "merging"),
    Mutant("merging/error.py", "[own.o, -group.o]", "[own.o, group.o]", "merging"),
    Mutant("merging/shared_pairs.py", "torch.complex(xx + yy, yx - xy)", "torch.complex(xx + yy, xy - yx)", "merging"),
    Mutant("merging/score_pairs.py", "turn = factors.conj()", "turn = factors", "merging"),
    Mutant("merging/procrustes.py", "towards = gram[:, head]", "towards = -gram[:, head]", "merging"),
    Mutant("merging/positions.py", "self.same * second - self.other", "self.same * second + self.other", "merging"),
    # Statistics, text and targets.
    Mutant("calibration/accumulator.py", "x = hidden[mask].float()", "x = hidden.flatten(0, 1).float()", "calibration"),
    Mutant(
        "calibration/accumulator.py", "spread = norms[:, :, None] - 2 *", "spread = norms[:, :, None] -", "calibration"
    ),
    Mutant(
        "calibration/predictions.py", "cls(ids[:, 1:], mask[:, 1:])", "cls(ids[:, 1:], mask[:, :-1])", "calibration"
    ),
    # Refinements.
    Mutant(
        "refining/descent.py", "found if after < before else start", "start if after < before else found", "refining"
    ),
    Mutant("refining/ridge.py", "cross += left.T @ z", "cross += wanted.T @ z", "refining"),
    Mutant(
        "refining/whitening.py", "return _times(weights, self.inverse)", "return _times(weights, self.root)", "refining"
    ),
    # Models, tied heads, layouts, configurations.
    Mutant("models/layer.py", "v=merged.v[index],", "v=merged.v[index.flip(0)],", "checkpoints"),
    Mutant(
        "models/written_as_phi.py", "weights.k) + weights.k @ shift", "weights.k) - weights.k @ shift", "checkpoints"
    ),
    Mutant(
        "models/written_as_phi.py",
        'by_head[:, -2], f"v.{kind}": by_head[:, -1]',
        'by_head[:, -1], f"v.{kind}": by_head[:, -2]',
        "checkpoints",
    ),
    Mutant(
        "checkpoints/layout.py",
        "[head * queries_per_kv + query for",
        "[head + query * queries_per_kv for",
        "checkpoints",
    ),
    Mutant(
        "checkpoints/config_json.py",
        '"rope_theta": theta,\n        "rope_scaling"',
        '"rope_theta": 1e4,\n        "rope_scaling"',
        "checkpoints",
    ),
    # Quality.
    Mutant("evaluation/quality.py", "kl_div(candidate, reference", "kl_div(reference, candidate", "evaluation"),
    Mutant("evaluation/reference.py", "found) + self.rest * rest", "found) - self.rest * rest", "evaluation"),
    Mutant("healing/teacher.py", "(values * keep).sum() / keep.sum()", "values.mean()", "healing"),
    # Search.
    Mutant("pairwise.py", "(inner / same.sum(axis=2))", "(inner / same.sum(axis=2) ** 2)", "searching"),
    Mutant("searching/operators/exchange_layers.py", "excess += change", "excess -= change", "searching"),
    Mutant("budget.py", "(layer < rest)) for layer", "(layer <= rest)) for layer", "searching"),
)


def run(mutant: Mutant, workers: int) -> str:
    """The first test that fails on the broken copy, "" where none does."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
        path = tree / "gqasearch" / mutant.file
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise SystemExit(
                f"{mutant.file} has {mutant.old!r} {text.count(mutant.old)} times: this list is out of date"
            )
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        # The near tests first: most of what is broken is noticed in seconds.
        for tests in ([f"tests/{mutant.first}"], ["tests"]):
            if failed := _first_failure(tree, tests, workers):
                return failed
    return ""


def _first_failure(tree: Path, tests: list[str], workers: int) -> str:
    paths = os.pathsep.join((str(tree), str(tree / "fitness")))  # before the tree that is installed
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", str(workers), "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    if done.returncode not in (0, 1, 2):  # 2: workers that were stopped at the first failure
        raise SystemExit(f"the tests could not be run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else "an error" if done.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants, from 1")
    options = parser.parse_args()
    passed = 0
    for number, mutant in enumerate(MUTANTS, 1):
        if options.only and number not in options.only:
            continue
        noticed = run(mutant, options.workers)
        passed += not noticed
        old, new = (" ".join(text.split()) for text in (mutant.old, mutant.new))
        print(f"{number:2} {mutant.file}: {old} -> {new}\n   {noticed or 'PASSED ALL TESTS'}", flush=True)
    print(f"{passed} not noticed")
    return int(passed > ALLOWED)


if __name__ == "__main__":
    raise SystemExit(main())

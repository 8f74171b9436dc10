"""How good the searches are: proofs, methods side by side, speed, curves, budget splits.

python -m experiments.benchmarks.search                    # every section (tens of minutes on 2 cores)
python -m experiments.benchmarks.search proofs speed       # some of them
python -m experiments.benchmarks.search --quick methods    # few seeds and small limits, written nowhere

Every section prints its table and writes its rows to ``experiments/benchmarks/results/search/SECTION.csv``; ``methods``
also draws ``methods.png``. The committed results come from the first command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table

from experiments.benchmarks import curves, methods, proofs, speed, splits
from experiments.benchmarks.equal_evaluations import equal_evaluations
from gqasearch.cli.messages import output_console, quiet_libraries
from gqasearch.files import write_file
from gqasearch.run.run_folder import environment

RESULTS = Path(__file__).parent / "results" / "search"

# Section -> (measure: quick or not -> one row per run, summary of those rows as printed).
SECTIONS: dict[str, tuple[Callable[[bool], pd.DataFrame], Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "proofs": (proofs.measure, proofs.summary),
    "methods": (methods.measure, methods.summary),
    "speed": (speed.measure, speed.summary),
    "curves": (curves.measure, curves.summary),
    "splits": (splits.measure, splits.summary),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which (default: all)")
    parser.add_argument("--quick", action="store_true", help="a small version, to try it; writes nothing")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments = parser.parse_args()
    quiet_libraries(0)
    for name in arguments.sections or SECTIONS:
        measure, summary = SECTIONS[name]
        rows = pd.read_csv(RESULTS / f"{name}.csv") if arguments.show else measure(arguments.quick)
        show(name, summary(rows))
        if name == "methods" and not arguments.quick:
            show("median normalised gap after so many evaluations, 32 heads", equal_evaluations(rows))
        if not (arguments.quick or arguments.show):
            write_file(RESULTS / f"{name}.csv", rows.to_csv(index=False), overwrite=True)
            record = json.dumps(environment(), indent=1) + "\n"
            write_file(RESULTS / "environment.json", record, overwrite=True)
            if name == "methods":
                methods.draw(rows, RESULTS / "methods.png")


def show(title: str, frame: pd.DataFrame) -> None:
    """A table in the terminal."""
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for column in frame.columns:
        first = column == frame.columns[0]
        table.add_column(
            str(column),
            overflow="fold",
            no_wrap=first,
            justify="left" if frame[column].dtype.kind not in "fiu" else "right",
        )
    for row in frame.itertuples(index=False):
        table.add_row(*map(_text, row))
    output_console().print(table)


def _text(value: object) -> str:
    """Four digits; what is smaller than rounding makes it is 0."""
    if not isinstance(value, float):
        return str(value)
    return "0" if abs(value) < 1e-9 else f"{value:.4g}"


if __name__ == "__main__":
    main()

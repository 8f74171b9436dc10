"""How close converted models come to their parent, without training, and what brings them there.

python -m experiments.quality                          # everything that is committed (hours on 2 cores)
python -m experiments.quality table --seeds 1          # one section, less of it
python -m experiments.quality table --model ORG/NAME
python -m experiments.quality --quick staging          # texts and searches too small to mean anything, written nowhere
python -m experiments.quality --show                   # print the committed results

``table``: merges, splits and searches at three KV ratios, on held-out text. Every run is an ordinary run folder under
--output-dir and a row of table.csv, which is written whenever a run ends; what is in either is not run again, so the
command goes on where it was stopped, on another machine too. ``refinements``: what each refinement gives, on the search
text. ``staging``: tokens that staged and unstaged search need. ``starts``: the splits of the budget that staged search
begins with. ``reuse``: seconds that kept hidden states save. Rows go to ``experiments/quality/results/SECTION.csv``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import typer

from experiments.benchmarks.search import show
from experiments.quality import refinements, reuse, runs, staging, starts
from experiments.quality.bench import Options
from experiments.quality.summary import summarise
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_file, write_json
from gqasearch.run.run_folder import environment

RESULTS = Path(__file__).parent / "results"
QUICK_ROWS = ("neighbour, mean", "neighbour, optimal")


def measure_table(options: Options) -> pd.DataFrame:
    """One line per run; a quick version takes two rows without a search, one seed."""
    if options.quick:
        options = replace(options, rows=QUICK_ROWS, ratios=options.ratios[:1], seeds=1)
    return runs.measure(options)


# Section -> (title, measure: one row per run, summary of those rows as printed).
SECTIONS: dict[str, tuple[str, Callable[[Options], pd.DataFrame], Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "table": ("KL to the parent on held-out text", measure_table, summarise),
    "refinements": ("KL to the parent on the search text", refinements.measure, refinements.summary),
    "staging": ("tokens to the same KL on held-out text", staging.measure, staging.summary),
    "starts": ("KL to the parent on the search text, of splits of the budget", starts.measure, starts.summary),
    "reuse": ("seconds of a candidate that differs in one layer", reuse.measure, reuse.summary),
}


def main() -> None:
    """Measure, print, write."""
    arguments = _parser().parse_args()
    quiet_libraries(0)
    options = Options(
        arguments.model,
        tuple(arguments.ratios),
        tuple(arguments.rows),
        arguments.seeds,
        arguments.workers,
        arguments.output_dir,
        arguments.quick,
        None if arguments.quick else arguments.results,
        arguments.fresh,
        tuple(arguments.variants),
    )
    with clear_errors(resumable=True):
        for name in arguments.sections or SECTIONS:
            title, measure, summary = SECTIONS[name]
            rows = _read(arguments.results, name) if arguments.show else _measure(measure, name, options)
            show(title, summary(rows))


def _measure(measure: Callable[[Options], pd.DataFrame], name: str, options: Options) -> pd.DataFrame:
    """A section's rows, written where the options say."""
    if options.results is None:
        return measure(options)
    _write_environment(options.results, name)  # before hours of work: an interrupted section leaves rows, too
    rows = measure(options)
    write_file(options.results / f"{name}.csv", rows.to_csv(index=False), overwrite=True)
    return rows


def _write_environment(results: Path, section: str) -> None:
    """Versions behind a section's rows; the command without its options, which name folders of this machine."""
    results.mkdir(parents=True, exist_ok=True)
    path = results / "environment.json"
    known = read_json(path) if path.is_file() else {}
    known[section] = {**environment(), "command": f"python -m experiments.quality {section}"}
    write_json(path, known, overwrite=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which (default: all)")
    parser.add_argument("--model", default="embedded")
    parser.add_argument(
        "--ratios", type=float, nargs="+", default=list(runs.RATIOS), help="of table, refinements, starts"
    )
    parser.add_argument("--rows", nargs="+", choices=list(runs.ROWS), default=list(runs.ROWS), help="of table")
    parser.add_argument("--seeds", type=int, default=5, help="of table, staging")
    parser.add_argument(
        "--variants", nargs="+", default=[], help="of refinements, in place of the CSV's own rows [default: all]"
    )
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, of table, staging")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quality"), help="folders of table's runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument(
        "--fresh", action="store_true", help="of table: take no row from the CSV (folders in --output-dir are kept)"
    )
    parser.add_argument("--quick", action="store_true", help="a small version, to try it; writes no results")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    return parser


def _read(results: Path, name: str) -> pd.DataFrame:
    path = results / f"{name}.csv"
    if not path.is_file():
        raise UserError(f"{path} is not there; measure it first")
    return runs.read_rows(path) if path.name == runs.FILE else pd.read_csv(path)


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None

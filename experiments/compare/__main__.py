"""Which fitness predicts quality: the built-in ones on the embedded model, at half and at a quarter of the KV heads.

python -m experiments.compare                  # measure (15 CPU minutes or so), print, write the results
python -m experiments.compare --only mean      # one of the two comparisons
python -m experiments.compare --show           # print the committed results

optimal: the default merge with nothing refined after it, ranking and searches. mean: the GQA recipe's merge, ranking of
random groupings alone. Each is an ordinary ``gqasearch compare`` in a folder below --output-dir, where it goes on if it
was stopped; tables, figures and versions go to ``experiments/compare/results/NAME/``. Seconds in the committed results
were taken while the machine did other work and paused this: costs are to be read from evaluations and tokens.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console

from gqasearch.cli.compare import show
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.comparison import ComparisonFolder, build_comparison, compare
from gqasearch.comparison.comparison_report import WINNER_RULE
from gqasearch.comparison.correlation import RULE
from gqasearch.errors import UserError
from gqasearch.files import read_json, write_json
from gqasearch.reporting import SearchProgress
from gqasearch.reporting.comparison import ComparisonData

RESULTS = Path(__file__).parent / "results"

SHARED: dict[str, Any] = {
    # Not healed-kl, which ranks models that will be trained: experiments.healing.ranking.
    "fitness": (
        *("activation-cosine", "attention-output-error", "kl"),
        *("merge-error", "perplexity", "weight-sharing-error"),
    ),
    "kv_ratios": (0.5, 0.25),
    "sample": 40,
    "sample_tokens": 8192,
    # Texts short enough for everything that runs the model to rank a hundred groupings in minutes.
    "run": {"refine": "none", "search_tokens": 1024, "evaluation_tokens": 8192},
}
COMPARISONS: dict[str, dict[str, Any]] = {
    "optimal": {**SHARED, "merges": ("optimal",), "seeds": 3, "evaluations": 90, "top": 3},
    "mean": {**SHARED, "merges": ("mean",), "seeds": 0},
}
RULES = (RULE, WINNER_RULE)
TABLES = ("ranking.csv", "winners.csv", "sample.csv")


def main() -> None:
    """Measure or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(COMPARISONS), help="one of the comparisons (default: both)")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/compare"), help="folders of the comparisons")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where tables and figures go")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments = parser.parse_args()
    quiet_libraries(0)
    with clear_errors(resumable=True):
        for name in [arguments.only] if arguments.only else COMPARISONS:
            if not arguments.show:
                measure(name, arguments.output_dir / name, arguments.results / name)
            show(committed(arguments.results / name))


def measure(name: str, output_dir: Path, results: Path) -> None:
    """Make one comparison and copy what is to be committed of it."""
    with SearchProgress(Console(stderr=True)) as progress:
        compare(build_comparison(COMPARISONS[name]), output_dir, progress)
    results.mkdir(parents=True, exist_ok=True)
    folder = ComparisonFolder(output_dir)
    for path in [*(folder.path / table for table in TABLES), *folder.path.glob("*.png"), folder.config]:
        if path.is_file():
            shutil.copy(path, results / path.name)
    # The command without its options, which name folders of this machine.
    write_json(
        results / "environment.json",
        {**read_json(folder.environment), "command": f"python -m experiments.compare --only {name}"},
        overwrite=True,
    )


def committed(results: Path) -> ComparisonData:
    """What the files hold, without the notes that only the folder of the comparison has."""
    if not (results / TABLES[0]).is_file():
        raise UserError(f"{results} holds no results; measure them first")
    frames = [pd.read_csv(path) if (path := results / table).is_file() else pd.DataFrame() for table in TABLES]
    ranking, winners, sample = frames
    rules = RULES if len(winners) else RULES[:1]
    return ComparisonData(results.name, ranking, sample, winners, rules, (), (), "", {})


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None

"""How close converted models come to their parent, without training; on held-out text.

python -m experiments.quality                      # everything that is committed (hours on 2 cores)
python -m experiments.quality table --seeds 1      # one section, less of it
python -m experiments.quality table --model ORG/NAME --device cuda
python -m experiments.quality --show               # print the committed results

``table``: merges, splits and searches at three KV ratios. Every run is an ordinary run folder under --output-dir, and
what is there is not run again. Rows go to ``experiments/quality/results/SECTION.csv``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from experiments.benchmarks.search import show
from experiments.quality import runs
from experiments.quality.summary import summarise
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.files import write_file
from gqasearch.run.folder import environment

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(runs.RATIOS))
    parser.add_argument("--rows", nargs="+", choices=list(runs.ROWS), default=list(runs.ROWS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quality"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments = parser.parse_args()
    quiet_libraries(0)
    with clear_errors(resumable=True):
        path = arguments.results / "table.csv"
        if arguments.show:
            rows = pd.read_csv(path)
        else:
            rows = runs.measure(
                arguments.rows,
                arguments.ratios,
                arguments.seeds,
                arguments.model,
                arguments.output_dir,
                arguments.workers,
            )
            write_file(path, rows.to_csv(index=False), overwrite=True)
            record = json.dumps(environment(), indent=1) + "\n"
            write_file(arguments.results / "environment.json", record, overwrite=True)
    show("KL to the parent on held-out text", summarise(rows))


if __name__ == "__main__":
    main()

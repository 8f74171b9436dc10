"""Heads and bits: what a smaller KV cache costs, by fewer heads, fewer bits, both, and low rank, on real models.

python -m experiments.frontier embedded        # or iglm, minilm, smollm2, qwen2.5-0.5b
python -m experiments.frontier smollm2 --ways "all heads" "all heads, free basis" --formats 4
python -m experiments.frontier iglm --show     # print the committed results
python -m experiments.frontier --protocol llama-2-7b --help

Models and texts come from packages, into --output-dir. Every conversion is an ordinary run there, as ``gqasearch
search`` makes it, nothing fine-tuned and nothing of it looking at the formats; of those with a free basis there is a
run for each format (``search --kv-bits``). All are then measured with their caches rounded, as ``gqasearch evaluate
--kv-bits`` does, on held-out text: KL to the parent whose cache is not rounded, and perplexity; of an encoder, which
caches nothing, 1 - the cosine of its sentence embeddings to the parent's. A run that is there is not run again, one
that was stopped goes on, and rows that are there are not measured again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from experiments.benchmarks.search import show
from experiments.frontier.figure import frontier_figure
from experiments.frontier.measure import measure_way
from experiments.frontier.models import SUBJECTS, Subject
from experiments.frontier.record import require_same
from experiments.frontier.tables import KEY, by_kind, summary
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.files import write_file
from gqasearch.reporting.plots import figure_png

RESULTS = Path(__file__).parent / "results"
FILE, FIGURE = "frontier.csv", "frontier.png"


def measure(subject: Subject, arguments: argparse.Namespace) -> pd.DataFrame:
    """All rows that are asked for and not there; the file is written whenever a way is measured."""
    folder = arguments.results / arguments.model
    path = folder / FILE
    rows = pd.read_csv(path, dtype={"format": str}) if path.is_file() else pd.DataFrame(columns=KEY)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    model, text = subject.make(arguments.output_dir)
    settings = {"model": model, "calibration_text": text, **subject.settings}
    runs = arguments.output_dir / "runs" / arguments.model
    require_same(folder, {"text": subject.words, **subject.settings})
    for way in subject.ways:
        if arguments.ways and way.name not in arguments.ways:
            continue
        for seed in way.seeds:
            own = rows[(rows["way"] == way.name) & (rows["seed"] == seed)]
            missing = [name for name in arguments.formats or way.formats if name not in set(own["format"])]
            missing = [name for name in missing if name in way.formats]
            if not missing:
                continue
            found = pd.DataFrame(measure_way(way, seed, missing, settings, runs))
            rows = pd.concat([rows, found], ignore_index=True) if len(rows) else found
            write_file(path, rows.to_csv(index=False, float_format="%.6g"), overwrite=True)
            told = (f"{name} {loss:.4g}" for name, loss in zip(found["format"], found["loss"], strict=True))
            print(f"{way.name}, seed {seed}: {', '.join(told)}", flush=True)
    return rows


def print_tables(model: str, rows: pd.DataFrame) -> None:
    """All rows, and the best of each kind."""
    show(f"{model}: heads and bits", summary(rows))
    show(f"{model}: the least of each, nothing with more bytes", by_kind(rows))


def main() -> None:
    """Measure or show, and print."""
    if "--protocol" in sys.argv[1:]:
        from experiments.frontier.protocol.command import main as protocol

        protocol()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(SUBJECTS))
    parser.add_argument("--ways", nargs="+", default=[], help="some of them, by name")
    parser.add_argument("--formats", nargs="+", default=[], help="some of those that a way is measured in")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/frontier"), help="folder of models and runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with one per model")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments: Any = parser.parse_args()
    quiet_libraries(0)
    folder = arguments.results / arguments.model
    with clear_errors(resumable=True):
        if not arguments.show:
            rows = measure(SUBJECTS[arguments.model], arguments)
            figure = figure_png(frontier_figure(arguments.model, rows))
            write_file(folder / FIGURE, figure, overwrite=True)
        print_tables(arguments.model, pd.read_csv(folder / FILE, dtype={"format": str}))


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None

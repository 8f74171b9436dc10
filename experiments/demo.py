"""The main job, shown: a real model loses half, then three quarters of its KV cache, five ways.

    python -m experiments.demo            (or: make demo)

Every row is an ordinary run folder under runs/demo, made by the same code as ``gqasearch search``: its
checkpoint is written, loaded by stock transformers and measured on text that nothing was fitted or
searched on. ``--papers`` adds QCQA and AsymGQA from start to end. Running it again shows what is there; remove
runs/demo to start over.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from gqasearch.cli.messages import clear_errors, output_console, quiet_libraries
from gqasearch.config import RunConfig, build_config
from gqasearch.files import write_file
from gqasearch.reporting import SearchProgress
from gqasearch.reporting.html import write_report
from gqasearch.reporting.tables import headlines, results_csv, results_frame, results_table
from gqasearch.run import RunFolder, report_data, run

RATIOS = (0.5, 0.25)

# name -> what differs from the defaults
METHODS: dict[str, dict[str, object]] = {
    "gqa": {"method": "neighbour", "merge": "mean", "objectives": ["weight-sharing-error"]},
    "qcqa": {"merge": "mean", "objectives": ["weight-sharing-error"]},
    "asymgqa": {"merge": "mean", "objectives": ["activation-cosine"]},
    "merge-only": {"method": "neighbour", "merge": "optimal", "objectives": ["merge-error"]},
    "gqasearch": {"merge": "optimal", "objectives": ["merge-error"]},
}
# The same for --papers: what the papers do from start to end, not their criteria under our search.
PAPERS: dict[str, dict[str, object]] = {
    "qcqa-ac": {"method": "qcqa-ac"},
    "qcqa-ec": {"method": "qcqa-ec"},
    "asymgqa-walk": {"method": "asymgqa"},
}
WORDS = {
    "gqa": "neighbour grouping, mean merge: the GQA recipe",
    "qcqa": "weight-sharing error, mean merge: QCQA's criterion",
    "asymgqa": "activation cosine, mean merge: AsymGQA's criterion",
    "merge-only": "neighbour grouping, optimal merge: ours without the search",
    "gqasearch": "merge error, optimal merge: ours",
    "qcqa-ac": "QCQA's whole procedure, groups of any size",
    "qcqa-ec": "QCQA's whole procedure, groups of equal size",
    "asymgqa-walk": "AsymGQA's whole procedure, perplexity as the score",
}


def demo_configs(ratio: float, model: str, seed: int, *, papers: bool = False) -> dict[str, RunConfig]:
    """The runs at one KV ratio."""
    shared = {"model": model, "kv_ratio": ratio, "seed": seed, "baseline": False}
    chosen = {**METHODS, **(PAPERS if papers else {})}
    return {name: build_config({**shared, **settings}) for name, settings in chosen.items()}


def main() -> None:
    """Run what is not there yet, then print the table and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--papers", action="store_true", help="also run the two papers' whole procedures")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/demo"))
    args = parser.parse_args()
    quiet_libraries(0)
    console, started = output_console(), time.monotonic()
    folders: list[RunFolder] = []
    with clear_errors(resumable=True):
        for ratio in RATIOS:
            for name, config in demo_configs(ratio, args.model, args.seed, papers=args.papers).items():
                console.print(f"{time.monotonic() - started:5.0f} s  KV ratio {ratio}: {WORDS[name]}", highlight=False)
                with SearchProgress(Console(stderr=True)) as progress:
                    folders.append(run(config, args.output_dir / f"ratio-{ratio:g}" / name, progress))
        data = report_data(folders, f"{args.model}: half, then a quarter of the KV cache")
        page = args.output_dir / "report.html"
        write_report(page, data)
    frame = results_frame(data)
    write_file(args.output_dir / "results.csv", results_csv(frame), overwrite=True)
    console.print()
    console.print(results_table(data))
    for line in headlines(frame):
        console.print(line, highlight=False)
    best = next(folder for folder in reversed(folders) if folder.path.name == "gqasearch")
    console.print(f"\n  grouping  {best.grouping}\ncheckpoint  {best.model}\n    report  {page}", highlight=False)
    console.print(f"{time.monotonic() - started:.0f} seconds in all", highlight=False)


if __name__ == "__main__":
    main()

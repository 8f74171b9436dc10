"""Heads and bits: KL against the bytes of the KV cache, with fewer heads, fewer bits, and both.

python -m experiments.frontier            # the embedded model (hours on 2 cores)
python -m experiments.frontier --model PATH --text FILE.txt --formats 16 8 4 q8_0 q4_0
python -m experiments.frontier --show     # print the committed results

Every conversion is an ordinary run under --output-dir, as ``gqasearch search`` makes it, nothing fine-tuned and nothing
of it looking at the formats; of those with a free basis there is a run for each format (``search --kv-bits``). The
checkpoint and the parent are then measured with their caches rounded, as ``gqasearch evaluate --kv-bits`` does, on
held-out text. A run that is there is not run again, one that was stopped goes on, and rows that are there are not
measured again. ``kv_share``: bytes over those of the parent's cache in 16 bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console

from experiments.benchmarks.search import show
from experiments.frontier.figure import frontier_figure
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.config import RunConfig, build_config
from gqasearch.files import write_file
from gqasearch.reporting import SearchProgress
from gqasearch.reporting.plots import figure_png
from gqasearch.rounding import parse_formats
from gqasearch.run import Workspace, run
from gqasearch.run.folder import environment
from gqasearch.run.rounded import PARENT, measure_rounded

RESULTS = Path(__file__).parent / "results"
FILE, FIGURE = "frontier.csv", "frontier.png"
ALL = "all heads"
RECIPE: dict[str, Any] = {"method": "neighbour", "merge": "mean", "refine": "none"}
RECIPE |= {"objectives": ["weight-sharing-error"]}  # never looked at
# Conversions -> what differs from the defaults. The cheap ones first.
CONVERSIONS: dict[str, dict[str, Any]] = {
    "half, neighbours + mean": {**RECIPE, "kv_ratio": 0.5},
    "a quarter, neighbours + mean": {**RECIPE, "kv_ratio": 0.25},
    "half": {"kv_ratio": 0.5},
    "a quarter": {"kv_ratio": 0.25},
    "half, uneven": {"kv_ratio": 0.5, "uneven": True},
    "a quarter, uneven": {"kv_ratio": 0.25, "uneven": True},
    "half, heads of 3": {"kv_ratio": 0.5, "join": 3},
    "a quarter, heads of 3": {"kv_ratio": 0.25, "join": 3},
}
# The same in the basis that is chosen for the format, a run for each.
FREE_BASIS = ", free basis"
CONVERSIONS |= {
    f"{ALL}{FREE_BASIS}": {**RECIPE, "kv_ratio": 1.0},
    **{f"{heads}{FREE_BASIS}": CONVERSIONS[heads] for heads in ("half", "half, uneven", "a quarter, heads of 3")},
}
FORMATS = ("16", "8", "k8v4", "4", "3", "2")
SAME = 1e-3  # of shares that scales and zero points alone tell apart
KEY = ["model", "heads", "format"]


def settings(arguments: argparse.Namespace, changes: dict[str, Any]) -> RunConfig:
    """Of one run."""
    shared = {"model": arguments.model, "calibration_text": arguments.text, "evaluation_tokens": arguments.tokens}
    return build_config({**shared, "baseline": False, **changes})


def perform(heads: str, arguments: argparse.Namespace, formats: list[str]) -> list[dict[str, Any]]:
    """One conversion, or the parent, in all formats; of those with a basis for each, one after the other."""
    if not heads.endswith(FREE_BASIS):
        return _perform(heads, arguments, formats, {})
    return [row for name in formats for row in _perform(heads, arguments, [name], {"kv_bits": name})]


def _perform(
    heads: str, arguments: argparse.Namespace, formats: list[str], changes: dict[str, Any]
) -> list[dict[str, Any]]:
    config = settings(arguments, {**CONVERSIONS.get(heads, {}), **changes})
    with SearchProgress(Console(stderr=True)) as progress:
        made: Path | None = None
        if heads != ALL:
            name = "-".join([heads.replace(" + ", "-").replace(", ", "-").replace(" ", "-"), *changes.values()])
            made = run(config, arguments.output_dir / name, progress, report=False).model
        metrics = measure_rounded(Workspace(config, progress), made, parse_formats(formats), trust_remote_code=True)
    wanted = PARENT if heads == ALL else "converted"
    rows = [row for row in metrics["rounded"] if row["model"] == wanted]
    return [
        {
            "model": Path(arguments.model).name,
            "heads": heads,
            "format": row["format"],
            "kv_share": row["kv_share"],
            "kv_bytes_per_token": row["kv_bytes_per_token"],
            "kl": row["kl"],
            "kl_low": row["kl_interval"][0],
            "kl_high": row["kl_interval"][1],
            "perplexity": row["perplexity"],
            "parent_perplexity": metrics["parent"]["perplexity"],
            "targets": metrics["targets"],
            "text": metrics["texts"]["reported"]["source"].partition(": ")[0].rpartition("/")[2],
        }
        for row in rows
    ]


def measure(arguments: argparse.Namespace) -> pd.DataFrame:
    """All that is asked for and not there; the file is written whenever a conversion is measured."""
    path = arguments.results / FILE
    rows = pd.read_csv(path, dtype={"format": str}) if path.is_file() else pd.DataFrame(columns=KEY)
    for heads in arguments.heads:
        own = rows[(rows["model"] == Path(arguments.model).name) & (rows["heads"] == heads)]
        asked = [name for name in arguments.formats if name != "16" or not heads.endswith(FREE_BASIS)]
        missing = [name for name in asked if name not in set(own["format"])]
        if not missing:
            continue
        found = pd.DataFrame(perform(heads, arguments, missing))
        rows = pd.concat([rows, found], ignore_index=True) if len(rows) else found
        arguments.results.mkdir(parents=True, exist_ok=True)
        write_file(path, rows.to_csv(index=False, float_format="%.6g"), overwrite=True)
        print(
            f"{heads}: " + ", ".join(f"{name} {kl:.4g}" for name, kl in zip(found["format"], found["kl"], strict=True)),
            flush=True,
        )
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """By bytes; ``best``: no other row has as few bytes and as little KL."""
    rows = rows.sort_values(["model", "kv_share", "kl"], ascending=[True, False, True], kind="stable")
    best = []
    for model, share, kl in zip(rows["model"], rows["kv_share"], rows["kl"], strict=True):
        smaller = rows[(rows["model"] == model) & (rows["kv_share"] <= share * (1 + SAME))]
        best.append(not (smaller["kl"] < kl).any())
    return pd.DataFrame(
        {
            "model": rows["model"],
            "KV bytes of 16 bit": rows["kv_share"].map("{:.3f}".format),
            "heads": rows["heads"],
            "bits": rows["format"],
            "KL": rows["kl"].map("{:.4g}".format),
            "95%": [f"{low:.4g} to {high:.4g}" for low, high in zip(rows["kl_low"], rows["kl_high"], strict=True)],
            "perplexity": rows["perplexity"].map("{:.2f}".format),
            "best": ["*" if is_best else "" for is_best in best],
        }
    )


def main() -> None:
    """Measure or show, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--text", default="embedded", help="as --calibration-text of search")
    parser.add_argument("--tokens", type=int, default=16384, help="held-out tokens to measure on")
    parser.add_argument("--heads", nargs="+", choices=[ALL, *CONVERSIONS], default=[ALL, *CONVERSIONS])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), help="as --kv-bits of evaluate")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/frontier"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV file and the figure")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments = parser.parse_args()
    quiet_libraries(0)
    with clear_errors(resumable=True):
        if not arguments.show:
            rows = measure(arguments)
            write_file(arguments.results / FIGURE, figure_png(frontier_figure(rows)), overwrite=True)
            record = {**environment(), "command": "python -m experiments.frontier"}
            text = pd.Series(record).to_json(indent=1) + "\n"
            write_file(arguments.results / "environment.json", text, overwrite=True)
        show("heads and bits", summary(pd.read_csv(arguments.results / FILE, dtype={"format": str})))


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None

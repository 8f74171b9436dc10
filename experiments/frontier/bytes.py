"""One budget in bytes: what ``search --kv-bytes`` makes of it, in the columns of ``frontier.csv``.

python -m experiments.frontier.bytes                        # the embedded model at .14 and .25 of its bytes
python -m experiments.frontier.bytes --model PATH --text FILE.txt --join 1 --shares 0.14
python -m experiments.frontier.bytes --alone                # also with heads alone: the cache in 16 bits
python -m experiments.frontier.bytes --show                 # print the committed results

A run for every share and width of heads, under --output-dir, everything on: numbers of groups per layer, format, basis,
descent through the rounded cache. Rows that are there are not measured again, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console

from experiments.benchmarks.search import show
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.config import build_config
from gqasearch.files import read_json, write_file
from gqasearch.reporting import SearchProgress
from gqasearch.run import run

FILE = Path(__file__).parent / "results" / "bytes.csv"
KEY = ["model", "heads", "asked"]


def perform(arguments: argparse.Namespace, share: float, join: int, formats: str | None) -> dict[str, Any]:
    """One run's row."""
    settings = {
        "model": arguments.model,
        "calibration_text": arguments.text,
        "evaluation_tokens": arguments.tokens,
        "kv_bytes": share,
        "formats": formats,
        "join": join,
        "uneven": True,
        "baseline": False,
        "materialize": False,
    }
    config = build_config(settings)
    folder = arguments.output_dir / f"{Path(arguments.model).name}-{share:g}-{join}-{formats or 'any'}"
    with SearchProgress(Console(stderr=True)) as progress:
        metrics = read_json(run(config, folder, progress, report=False).metrics)
    plain = metrics["results"]["converted"]
    rounded = [row for row in metrics.get("rounded", []) if row["model"] == "converted"]
    (taken,) = (row for row in metrics["decision"]["options"] if row["chosen"])
    row = rounded[0] if rounded else plain
    return {
        "model": Path(arguments.model).name,
        "heads": heads_words(join, formats),
        "asked": share,
        "format": taken["format"],
        "kv_heads": taken["kv_heads_total"],
        "kv_share": taken["kv_share"],
        "kv_bytes_per_token": taken["kv_bytes_per_token"],
        "kl": row["kl"],
        "kl_low": row["kl_interval"][0],
        "kl_high": row["kl_interval"][1],
        "perplexity": row["perplexity"],
        "parent_perplexity": metrics["parent"]["perplexity"],
        "targets": metrics["targets"],
        "text": metrics["texts"]["reported"]["source"].partition(": ")[0].rpartition("/")[2],
    }


def heads_words(join: int, formats: str | None) -> str:
    """How a row is named."""
    return f"{'decided' if formats is None else 'heads alone'}{f', heads of {join}' if join > 1 else ''}, uneven"


def measure(arguments: argparse.Namespace) -> None:
    """All that is asked for and not there, one after the other."""
    path = arguments.results
    for share in arguments.shares:
        for join, formats in [(n, None) for n in arguments.join] + [(1, "f16")] * arguments.alone:
            rows = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=KEY)
            name = (Path(arguments.model).name, heads_words(join, formats), share)
            if name in set(rows[KEY].itertuples(index=False, name=None)):
                continue
            found = pd.DataFrame([perform(arguments, share, join, formats)])
            rows = pd.concat([rows, found], ignore_index=True) if len(rows) else found
            write_file(path, rows.to_csv(index=False, float_format="%.6g"), overwrite=True)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """In words."""
    return pd.DataFrame(
        {
            "model": rows["model"],
            "asked": rows["asked"],
            "KV bytes of 16 bit": rows["kv_share"].map("{:.3f}".format),
            "heads": rows["heads"],
            "KV heads": rows["kv_heads"],
            "bits": rows["format"],
            "KL": rows["kl"].map("{:.4g}".format),
            "95%": [f"{low:.4g} to {high:.4g}" for low, high in zip(rows["kl_low"], rows["kl_high"], strict=True)],
            "perplexity": rows["perplexity"].map("{:.2f}".format),
        }
    )


def main() -> None:
    """Measure or show, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--text", default="embedded", help="as --calibration-text of search")
    parser.add_argument("--tokens", type=int, default=16384, help="held-out tokens to measure on")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.14, 0.25], help="as --kv-bytes of search")
    parser.add_argument("--join", nargs="+", type=int, default=[3, 1], help="as --join of search, a run for each")
    parser.add_argument("--alone", action="store_true", help="also the cache in 16 bits, with as many heads as fit")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/frontier/bytes"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=FILE, help="the CSV file")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments = parser.parse_args()
    quiet_libraries(0)
    with clear_errors(resumable=True):
        if not arguments.show:
            measure(arguments)
        show("one budget in bytes", summary(pd.read_csv(arguments.results)))


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None

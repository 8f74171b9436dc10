"""Wide heads, and keys and values apart, beside grouping at the same KV cache: KL, memory, parameters, cost.

python -m experiments.joined                         # the embedded model, every row (two hours on 2 cores)
python -m experiments.joined --ratios .5 --joins 1 2 3 --kinds even uneven   # some of them; a part is committed
python -m experiments.joined --model PATH --text FILE.txt --ratios .667 --joins 1 2 --kinds even
python -m experiments.joined --ratios .5 .25 --joins 1 --kinds even separate   # keys and values grouped apart
python -m experiments.joined --show                  # print the committed results

Every row is an ordinary run under --output-dir, as ``gqasearch search`` makes it with ``--join N`` or
``--separate-kv``, with nothing fine-tuned. A run that is there is not run again, and one that was stopped goes on. Rows
go to experiments/joined/results/joined.csv whenever a run ends. KV bytes are those of the written checkpoint's own
cache, parameters those of the checkpoint as it is stored; figures are on held-out text. Statistics may come from the
cache, and CPU seconds are then without them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console

from experiments.benchmarks.search import show
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.config import RunConfig, build_config
from gqasearch.files import read_json, write_file
from gqasearch.reporting import SearchProgress
from gqasearch.run import run
from gqasearch.run.run_folder import environment
from gqasearch.steps.measure import CONVERTED

RESULTS = Path(__file__).parent / "results"
FILE = "joined.csv"
# All that pays: more text, of which the embedded model has 200,223 tokens, twice the steps, and then the joint ones.
LONG: dict[str, Any] = {"refine": "joint", "refine_parameters": {"steps": 480}, "calibration_tokens": 262144}
STAGED: dict[str, Any] = {"method": "staged", "objectives": ("kl",), "method_parameters": {"generations": 15}}
# Kind -> what differs from the defaults.
KINDS: dict[str, dict[str, Any]] = {
    "even": {},
    "even, equal sizes": {"equal_sizes": True},
    "uneven": {"uneven": True},
    "even, joint": {"refine": "joint"},
    "uneven, joint": {"uneven": True, "refine": "joint"},
    "even, long": LONG,
    "uneven, long": {"uneven": True, **LONG},
    "uneven, staged": {"uneven": True, **STAGED},
    "separate": {"separate_kv": True},
    "separate, uneven, staged": {"separate_kv": True, "uneven": True, **STAGED},
}
RATIOS, JOINS = (0.5, 1 / 3, 0.25), (1, 2, 3)
KEY = ["model", "ratio", "join", "kind"]


@dataclass(frozen=True)
class Cell:
    """One run: how many heads' size a KV head has, which share of the cache is kept, how it is searched and fitted."""

    ratio: float
    join: int
    kind: str

    def config(self, model: str, text: str) -> RunConfig:
        """Its settings."""
        shared = {"model": model, "calibration_text": text, "kv_ratio": self.ratio, "baseline": False}
        joined = {"join": self.join} if self.join > 1 else {}
        return build_config({**shared, **joined, **KINDS[self.kind]})

    def folder(self, output_dir: Path) -> Path:
        """Where its run is."""
        return output_dir / f"ratio-{self.ratio:.3g}-join-{self.join}-{self.kind.replace(', ', '-')}"


def cells(ratios: list[float], joins: list[int], kinds: list[str]) -> Iterator[Cell]:
    """Every run; the cheap kinds first."""
    for kind in kinds:
        for ratio in ratios:
            # Joined heads hold keys and values of one group.
            yield from (Cell(ratio, join, kind) for join in joins if join == 1 or "separate_kv" not in KINDS[kind])


def perform(cell: Cell, model: str, text: str, output_dir: Path) -> dict[str, Any]:
    """One run, as a row."""
    with SearchProgress(Console(stderr=True)) as progress:
        folder = run(cell.config(model, text), cell.folder(output_dir), progress, report=False)
    metrics = read_json(folder.metrics)
    mine, parent = metrics["results"][CONVERTED], metrics["parent"]
    config = read_json(folder.model / "config.json") if folder.model.is_dir() else {}
    return {
        "model": Path(model).name,
        "ratio": round(cell.ratio, 4),
        "join": cell.join,
        "kind": cell.kind,
        "kl": mine["kl"],
        "perplexity": mine["perplexity"],
        "parent_perplexity": parent["perplexity"],
        "kv_share": mine["kv_bytes_per_token"] / parent["kv_bytes_per_token"],
        "kv_bytes_per_token": mine["kv_bytes_per_token"],
        "parameters": mine["parameters"],
        "parent_parameters": parent["parameters"],
        "query_heads": config.get("num_attention_heads"),
        "head_dim": config.get("head_dim"),
        "layout": (metrics["checkpoint"] or {}).get("layout"),
        "cpu_seconds": sum(metrics["cpu_seconds"].values()),
    }


def measure(arguments: argparse.Namespace) -> pd.DataFrame:
    """Every cell that is asked for; the file is written whenever one is done."""
    path = arguments.results / FILE
    rows = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=KEY)
    for cell in cells(arguments.ratios, arguments.joins, arguments.kinds):
        row = perform(cell, arguments.model, arguments.text, arguments.output_dir)
        same = (rows[KEY] == [row[name] for name in KEY]).all(axis=1)
        rows = pd.concat([rows[~same], pd.DataFrame([row])], ignore_index=True) if len(rows) else pd.DataFrame([row])
        rows = rows.sort_values(KEY, ascending=[True, False, True, True], kind="stable")
        arguments.results.mkdir(parents=True, exist_ok=True)
        write_file(path, rows.to_csv(index=False, float_format="%.6g"), overwrite=True)
        print(f"{cell}: KL {row['kl']:.4f}", flush=True)
    return rows


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """As people read it: by share of the cache, and what of the KL of heads of one size at that share is left."""
    alone = rows[rows["join"] == 1].set_index(["model", "ratio", "kind"])["kl"]
    keys = list(zip(rows["model"], rows["ratio"], rows["kind"], strict=True))
    return pd.DataFrame(
        {
            "model": rows["model"],
            "KV cache": rows["kv_share"].map("{:.3g}".format),
            "head size": rows["join"].map(lambda join: "as it was" if join == 1 else f"{join} heads'"),
            "kind": rows["kind"],
            "KL": rows["kl"].map("{:.4f}".format),
            "of one size's": [
                f"{kl / alone[key]:.2f}" if key in alone.index and join > 1 else ""
                for key, kl, join in zip(keys, rows["kl"], rows["join"], strict=True)
            ],
            "perplexity": rows["perplexity"].map("{:.2f}".format),
            "parameters": [
                f"{mine / 1e6:.2f} M ({mine / own:.2f})"
                for mine, own in zip(rows["parameters"], rows["parent_parameters"], strict=True)
            ],
            "queries": [
                "" if pd.isna(heads) else f"{heads:.0f} x {size:.0f}"
                for heads, size in zip(rows["query_heads"], rows["head_dim"], strict=True)
            ],
            "layout": rows["layout"].fillna(""),
            "CPU s": rows["cpu_seconds"].round(),
        }
    )


def main() -> None:
    """Measure or show, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--text", default="embedded", help="as --calibration-text of search")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS))
    parser.add_argument("--joins", type=int, nargs="+", default=list(JOINS))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--output-dir", type=Path, default=Path("runs/joined"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV file")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    arguments = parser.parse_args()
    quiet_libraries(0)
    with clear_errors(resumable=True):
        if not arguments.show:
            measure(arguments)
            record = {**environment(), "command": "python -m experiments.joined"}
            text = pd.Series(record).to_json(indent=1) + "\n"
            write_file(arguments.results / "environment.json", text, overwrite=True)
        show("heads of one size and of several, the same KV cache", summary(pd.read_csv(arguments.results / FILE)))


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None

"""Memory and time of whole jobs as models grow, beside a baseline commit: every run through the command line, alone.

python -m experiments.benchmarks.scale memory cost --against REV       # shapes with random weights (hours)
python -m experiments.benchmarks.scale smollm2 --against REV           # a real model of 135 M parameters
python -m experiments.benchmarks.scale layers --shapes tinyllama-mha --layers 22 --flags=--uneven --repeat 1
python -m experiments.benchmarks.scale layers --shapes llama-2-7b --layers 32 --hours 2 --repeat 1
python -m experiments.benchmarks.scale --show                          # the committed results

``memory``: --layers 2 4 of the widest shape, this tree and the baseline in turn: peak of resident memory, growth per
layer. ``cost``: two layers of every shape, and a plain forward pass of the same calibration text. ``smollm2``: the
default uneven run at .667, on Python's own help texts. ``layers``: this tree alone, on as many layers as --layers says,
its whole output kept beside the results.

Rows go to ``experiments/benchmarks/results/scale/scale.csv`` whenever a run ends; what is there (of the same commit) is
not measured again. Models with random weights are written under --work, a shard per layer: Llama-2-7B whole takes
13.5 GB there and little memory. Every run is a fresh process with an empty cache of statistics; CPU seconds (user and
system) and peak are of that process alone, pages of mapped files among them (Linux). The baseline runs in a worktree of
its commit, in an environment of its own unless --python names one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import typer

from experiments.benchmarks.apart import Limits
from experiments.benchmarks.scale_jobs import (
    BASELINE,
    EMBEDDED,
    FORWARD,
    THIS,
    Bench,
    Case,
    Rows,
    measure_case,
    read_rows,
)
from experiments.benchmarks.scale_models import SHAPES, SMOLLM2
from experiments.benchmarks.scale_plot import draw_scale
from experiments.benchmarks.scale_tables import main_table, plan_table, side_by_side, slope_table, stage_table
from experiments.benchmarks.search import show
from experiments.benchmarks.trees import Tree, this_tree, tree_of
from gqasearch.cli.messages import clear_errors, quiet_libraries
from gqasearch.files import write_file
from gqasearch.run.run_folder import environment

RESULTS = Path(__file__).parent / "results" / "scale"
SECTIONS = ("memory", "cost", "smollm2", "layers")
FILE, PLOT, LOGS = "scale.csv", "scale.png", "logs"
SMOLLM2_LAYERS, SMOLLM2_TOKENS, EMBEDDED_LAYERS = 30, 65536, 6
TABLES = {
    "whole jobs, medians": main_table,
    "this tree over the baseline": side_by_side,
    "per layer, and the whole model": slope_table,
    "seconds of the stages": stage_table,
    "planned and measured": plan_table,
}


def cases(section: str, arguments: argparse.Namespace) -> Iterator[Case]:
    """The runs of a section."""
    tokens = (arguments.calibration_tokens, arguments.evaluation_tokens)
    if section == "smollm2":
        flags = " ".join(["--uneven --kv-ratio .667", *arguments.flags])
        yield Case(SMOLLM2, SMOLLM2_LAYERS, SMOLLM2_TOKENS, SMOLLM2_TOKENS, "float32", flags)
        return
    defaults = {"memory": (["llama-2-7b"], [2, 4]), "cost": (list(SHAPES), [2]), "layers": (["llama-2-7b"], [8])}
    shapes, layers = defaults[section]
    for name in arguments.shapes or shapes:
        for count in [EMBEDDED_LAYERS] if name == EMBEDDED else arguments.layers or layers:
            yield Case(name, count, *tokens, arguments.dtype, " ".join(arguments.flags))


def measure(arguments: argparse.Namespace) -> None:
    """Every section that is asked for."""
    limits = Limits(arguments.gigabytes, 3600 * arguments.hours)
    rows = Rows(arguments.results / FILE, arguments.again)
    with ExitStack() as stack:
        trees: dict[str, Tree] = {} if arguments.baseline_alone else {THIS: this_tree()}
        if arguments.against is not None:
            python = arguments.python and arguments.python.absolute()
            trees[BASELINE] = stack.enter_context(tree_of(arguments.against, python))
        for section in arguments.sections or SECTIONS:
            alone = section == "layers"
            log = arguments.results / LOGS if alone else None
            bench = Bench(arguments.work.absolute(), arguments.threads, limits, arguments.model, log)
            mine = {THIS: this_tree()} if alone else trees
            forward = {FORWARD: this_tree()} if section in ("cost", "layers") else {}
            for case in cases(section, arguments):
                measure_case(bench, case, {**mine, **forward}, arguments.repeat, rows)
    found = environment()
    del found["command"]  # of the last of many, with the folders of one machine
    record = json.dumps(found, indent=1) + "\n"
    write_file(arguments.results / "environment.json", record, overwrite=True)


def print_tables(rows: pd.DataFrame) -> None:
    """All that the rows tell."""
    for title, table in TABLES.items():
        found = table(rows)
        if len(found):
            show(title, found)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which (default: all)")
    found.add_argument("--against", metavar="REV", help="commit that runs beside this tree")
    found.add_argument("--python", type=Path, help="interpreter for it [default: that of an environment of its own]")
    found.add_argument("--baseline-alone", action="store_true", help="do not run this tree")
    found.add_argument("--shapes", nargs="+", choices=[EMBEDDED, *SHAPES])
    found.add_argument("--layers", type=int, nargs="+")
    found.add_argument("--calibration-tokens", type=int, default=4096, help="of all but smollm2")
    found.add_argument("--evaluation-tokens", type=int, default=4096, help="of all but smollm2")
    found.add_argument("--dtype", default="bfloat16", help="of all but smollm2")
    found.add_argument("--flags", nargs="+", default=[], help="further ones of gqasearch search: --flags=--uneven")
    found.add_argument("--model", type=Path, help="folder of SmolLM2 [default: made from a public package]")
    found.add_argument("--repeat", type=int, default=3)
    found.add_argument("--threads", type=int, default=1, help="of numerical libraries")
    found.add_argument("--gigabytes", type=float, default=0, help="a run that is larger is stopped [default: none is]")
    found.add_argument("--hours", type=float, default=0, help="a run that takes longer is stopped [default: none is]")
    found.add_argument("--work", type=Path, default=Path("runs/scale"), help="folder of models and runs")
    found.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV file and the plot")
    found.add_argument("--again", action="store_true", help="measure what is in the CSV file, too")
    found.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    return found


def main() -> None:
    """Measure, print, draw."""
    arguments = parser().parse_args()
    quiet_libraries(0)
    with clear_errors(resumable=True):
        if not arguments.show:
            measure(arguments)
        rows = read_rows(arguments.results / FILE)
        print_tables(rows)
        if not arguments.show:
            draw_scale(rows, arguments.results / PLOT)


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None

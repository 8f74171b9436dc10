"""How far each conversion is brought by the same fine-tune: neighbour + mean, the papers' procedures, and ours.

python -m experiments.healing                                 # hours on 2 cores
python -m experiments.healing --starts ours --seeds 0         # a part of it; parts may run side by side
python -m experiments.healing --starts ours --learning-rate 3e-4
python -m experiments.healing --kv-ratio 0.5 --steps 300 --learning-rate 3e-4 --loss language-model --starts ours parent
python -m experiments.healing --steps 500 --starts neighbour ours --progressive 0.5   # and without, to compare
python -m experiments.healing --show                          # print the committed results

Starts are ordinary runs of ``gqasearch search`` with seed 0, healed folders those of ``gqasearch heal``, both below
--work-dir: what is there is not made again, and what was stopped goes on. ``--seeds`` are of healing: other orders of
the text. ``parent`` is the unconverted model under the same training. What is finished of a setting, by this command or
others, is written to ``experiments/healing/results/SETTING/``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console

from experiments.benchmarks.search import show
from gqasearch.cli.messages import clear_errors, output_console, quiet_libraries
from gqasearch.config import build_config
from gqasearch.errors import UserError
from gqasearch.files import write_file, write_json
from gqasearch.healing import HealConfig
from gqasearch.reporting import SearchProgress
from gqasearch.reporting.healing import HealingData
from gqasearch.reporting.healing_html import write_healing
from gqasearch.reporting.healing_tables import (
    figures_frame,
    figures_table,
    headlines,
    history_csv,
    history_frame,
    tokens_frame,
    tokens_table,
)
from gqasearch.reporting.plots import figure_png
from gqasearch.reporting.plots.healing_curves import healing_figure
from gqasearch.reporting.text_table import rich_table
from gqasearch.run import run
from gqasearch.run.heal import HealFolder, heal
from gqasearch.run.heal.healed_runs import healing_data
from gqasearch.run.run_folder import environment

RESULTS = Path(__file__).parent / "results"
WORK = Path("runs/healing")
PARENT = "parent"

# Name -> what differs from the defaults of a search. Ours is the README's: layers share the budget, merged by
# ``optimal`` and refined by ``descent``; at a quarter of the heads a search on the whole model gains nothing more.
STARTS: dict[str, dict[str, Any]] = {
    "neighbour": {"method": "neighbour", "merge": "mean"},
    "qcqa-ac": {"method": "qcqa-ac"},
    "asymgqa": {"method": "asymgqa"},
    "ours": {"uneven": True},
}
LABELS = {
    "neighbour": "neighbour + mean",
    "qcqa-ac": "QCQA-AC",
    "asymgqa": "AsymGQA",
    "ours": "ours",
    PARENT: "the parent, trained too",
}
# Settings of healing that an option changes. The learning rate suits the starts that have most to recover.
SIZES: dict[str, Any] = {
    "learning_rate": 1e-3,
    "evaluate_every": 100,
    "batch_blocks": 2,
    "block_length": 256,
    "evaluation_tokens": 32768,
}
# Steps that the table at equal steps shows, as far as they were measured, beside the last.
STEPS = (0, 50, 100, 200, 300, 500, 1000, 1500, 2000)


@dataclass(frozen=True)
class Options:
    """What the command line says. ``search``, ``healing``: settings of every search and of every healing run."""

    starts: tuple[str, ...]
    seeds: tuple[int, ...]
    work_dir: Path
    search: dict[str, Any]
    healing: dict[str, Any]

    def start_folder(self, name: str) -> Path:
        return self.work_dir / f"starts-{self.search['kv_ratio']:g}" / name

    def healed_folder(self, name: str, seed: int) -> Path:
        return self.work_dir / self.setting / name / f"seed-{seed}"

    @property
    def setting(self) -> str:
        """Name of the folder of the results."""
        loss = "" if self.healing["loss"] == "kl" else f"-{self.healing['loss']}"
        rate = f"lr-{self.healing['learning_rate']:g}"
        share = f"-progressive-{self.healing['progressive']:g}" if self.healing["progressive"] else ""
        return f"kv-{self.search['kv_ratio']:g}-steps-{self.healing['steps']}-{rate}{loss}{share}"


def make_start(name: str, options: Options) -> str:
    """A converted checkpoint, made unless it is there; what ``HealConfig.model`` takes."""
    model = str(options.search["model"])
    if name == PARENT:
        return model
    config = build_config({"baseline": False, **options.search, **STARTS[name]})
    with SearchProgress(Console(stderr=True)) as progress:
        return str(run(config, options.start_folder(name), progress).path)


def heal_start(name: str, seed: int, options: Options) -> HealFolder:
    """One healing run, unless it is there."""
    model = make_start(name, options)
    config = HealConfig(model=model, parent=str(options.search["model"]), seed=seed, **options.healing)
    with SearchProgress(Console(stderr=True)) as progress:
        return heal(config, options.healed_folder(name, seed), progress)


def done(options: Options) -> HealingData | None:
    """All finished runs of this setting, whichever command made them; None where there is none."""
    found = [
        (name, folder)
        for name in LABELS
        for folder in sorted((options.work_dir / options.setting / name).glob("seed-*"))
        if (folder / "metrics.json").is_file()
    ]
    if not found:
        return None
    labels = [LABELS[name] for name, _ in found]
    ratio = f"{options.search['kv_ratio']:g}"
    title = f"{options.search['model']}: healing with {ratio} of the KV heads"
    data = healing_data([folder for _, folder in found], title, labels)
    # Nothing of this machine in what is committed.
    command = {"command": "python -m experiments.healing"}
    configuration = data.configuration.replace(str(options.work_dir), str(WORK))
    return replace(data, configuration=configuration, environment={**data.environment, **command})


def write_results(data: HealingData, folder: Path) -> None:
    """Rows, the figure and the page."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = {"figures": figures_frame(data), "tokens": tokens_frame(data)}
    for name, frame in frames.items():
        write_file(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"), overwrite=True)
    write_file(folder / "history.csv", history_csv(data), overwrite=True)
    write_file(folder / "curves.png", figure_png(healing_figure(data)), overwrite=True)
    write_healing(folder / "report.html", data)
    record = {**environment(), "command": "python -m experiments.healing"}
    write_json(folder / "environment.json", record, overwrite=True)


def at_equal_steps(history: pd.DataFrame) -> pd.DataFrame:
    """Validation KL by start and step, medians over seeds, of runs that are as long."""
    table = history[history["step"].isin((*STEPS, history["step"].max()))].pivot_table(
        index="start", columns="step", values="kl", aggfunc="median", sort=False
    )
    return table.rename_axis(columns=None).reset_index()


def always_ahead(history: pd.DataFrame, ours: str, other: str) -> str:
    """At how many of the measured steps the worst seed of ``ours`` has a lower KL than the best of ``other``."""
    worst = history[history["start"] == ours].groupby("step")["kl"].max()
    best = history[history["start"] == other].groupby("step")["kl"].min()
    both = pd.concat([worst, best], axis=1, keys=["ours", "other"]).dropna()
    ahead = int((both["ours"] < both["other"]).sum())
    return f"{ours}, its worst seed, against {other}, its best: ahead at {ahead} of {len(both)} measured steps"


def main() -> None:
    """Measure, print, write; or show."""
    arguments = _parser().parse_args()
    quiet_libraries(0)
    with clear_errors(resumable=True):
        if arguments.show:
            _show_committed(arguments.results)
        else:
            _measure(_options(arguments), arguments.results)


def _measure(options: Options, results: Path) -> None:
    for seed in options.seeds:
        for name in options.starts:
            folder = heal_start(name, seed, options)
            print(f"{LABELS[name]}, seed {seed}: {folder.path}", flush=True)
    data = done(options)
    if data is None:
        raise UserError(f"{options.work_dir / options.setting} holds no finished run")
    console = output_console()
    for table in (figures_table(data), tokens_table(data)):
        console.print(rich_table(table))
    for line in headlines(data):
        console.print(line, markup=False, highlight=False)
    _show_history(history_frame(data))
    write_results(data, results / options.setting)
    print(f"results  {results / options.setting}")


def _show_committed(results: Path) -> None:
    folders = sorted(path for path in results.glob("*") if (path / "figures.csv").is_file())
    if not folders:
        raise UserError(f"{results} holds no results yet; measure them first")
    for folder in folders:
        show(f"{folder.name}: on held-out text", _without_nan(pd.read_csv(folder / "figures.csv")))
        show("tokens to a given validation KL", _without_nan(pd.read_csv(folder / "tokens.csv")))
        _show_history(pd.read_csv(folder / "history.csv"))


def _show_history(history: pd.DataFrame) -> None:
    show("validation KL after so many steps", _without_nan(at_equal_steps(history)))
    if {LABELS["ours"], LABELS["neighbour"]} <= set(history["start"]):
        print(always_ahead(history, LABELS["ours"], LABELS["neighbour"]))


def _without_nan(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype(object).where(frame.notna(), "")


def _options(arguments: argparse.Namespace) -> Options:
    healing = {
        "steps": arguments.steps,
        "loss": arguments.loss,
        "progressive": arguments.progressive,
        "evaluate_every": arguments.evaluate_every,
        "learning_rate": arguments.learning_rate,
        "batch_blocks": arguments.batch_blocks,
        "block_length": arguments.block_length,
        "evaluation_tokens": arguments.evaluation_tokens,
    }
    search = {
        "model": arguments.model,
        "kv_ratio": arguments.kv_ratio,
        "block_length": arguments.block_length,
        "evaluation_tokens": arguments.evaluation_tokens,
    }
    return Options(tuple(arguments.starts), tuple(arguments.seeds), arguments.work_dir, search, healing)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", nargs="+", choices=list(LABELS), default=list(STARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of healing")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kv-ratio", type=float, default=0.25)
    parser.add_argument("--loss", choices=["kl", "language-model"], default="kl")
    parser.add_argument("--progressive", type=float, default=0.0, help="share of the steps in which heads move")
    parser.add_argument("--model", default="embedded")
    for name, default in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--work-dir", type=Path, default=WORK, help="starts and healed folders")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--show", action="store_true", help="print the committed results instead of measuring")
    return parser


if __name__ == "__main__":
    try:
        main()
    except typer.Exit as stop:  # its message is out already
        raise SystemExit(stop.exit_code) from None

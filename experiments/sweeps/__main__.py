"""Run the ready sweeps of this folder, measure their best trials on held-out text, write results/NAME.csv.

python -m experiments.sweeps [rates choices] [--workers 2] [--work sweeps]
python -m experiments.sweeps --show     # from the committed results
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from gqasearch.files import write_file
from gqasearch.steps import ProcessCache
from gqasearch.sweeps.best import best_trials, held_out, held_out_figures
from gqasearch.sweeps.export import trials_frame
from gqasearch.sweeps.launch import launch
from gqasearch.sweeps.study import begin, locate
from gqasearch.sweeps.sweep_report import write_sweep_report

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
READY = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# Of the machine that ran it, or the same in all trials.
LEFT_OUT = ["host", "folder", "error", "started", "generations_reported"]


def measure(name: str, workers: int, work: Path) -> pd.DataFrame:
    """All trials of a ready sweep; those that no other beats have held-out figures."""
    sweep, place = locate(FOLDER / f"{name}.yaml", None, None, work / name)
    if sweep is None:
        raise ValueError(f"no sweep {name}")
    study = begin(sweep, place, None)
    launch(study, place, workers)
    frame, cache = trials_frame(study, sweep).drop(columns=LEFT_OUT).set_index("number"), ProcessCache()
    for best in best_trials(study, sweep):
        for figure, value in held_out_figures(held_out(best, place, cache)).items():
            frame.loc[best.number, f"held-out {figure}"] = value
    write_sweep_report(study, sweep, place)
    return frame.reset_index()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The trials that no other beats, parameters and objectives."""
    best = rows[rows["held-out kl"].notna()] if len(rows) > 12 else rows
    shown = [
        name for name in best.columns if not name.startswith("measured.") and name not in ("state", "seconds_taken")
    ]
    first = next(name for name in best.columns if name not in ("number", "state"))
    return best[shown].sort_values(first).rename(columns=lambda name: name.removeprefix("set."))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=READY, help=f"of {', '.join(READY)}")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("sweeps"))
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    for name in options.names:
        path = RESULTS / f"{name}.csv"
        if not options.show:
            RESULTS.mkdir(exist_ok=True)
            write_file(path, measure(name, options.workers, options.work).to_csv(index=False), overwrite=True)
        print(f"{name}\n{summary(pd.read_csv(path)).to_string(index=False, float_format='{:.5g}'.format)}\n")


if __name__ == "__main__":
    main()

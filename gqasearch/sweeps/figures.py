"""Figures of a sweep: what was reached when, what mattered, what each parameter did."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from gqasearch.reporting.plots import GREY, LINE_COLOURS, plain_log_axis, styled
from gqasearch.sweeps.definition import Sweep
from gqasearch.sweeps.drawn_parameters import Categorical
from gqasearch.sweeps.optimisers import quiet_optuna

LEAST_FOR_IMPORTANCE = 10  # complete trials; with fewer the shares are noise


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """In the order of their numbers."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def history_figure(study: optuna.Study, sweep: Sweep) -> Figure:
    """Every complete trial's value against its number, and the best so far; a panel per objective."""
    trials = complete_trials(study)
    pruned = [t.number for t in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))]
    numbers = np.array([trial.number for trial in trials])
    with styled():
        figure = Figure(figsize=(6.4, 2.8 * len(sweep.objectives)), layout="constrained")
        panels = figure.subplots(len(sweep.objectives), 1, squeeze=False)[:, 0]
        for index, (axes, name) in enumerate(zip(panels, sweep.objectives, strict=True)):
            values = np.array([trial.values[index] for trial in trials])
            axes.plot(numbers, values, "o", markersize=4, color=LINE_COLOURS[5], label="trial")
            axes.step(numbers, np.minimum.accumulate(values), where="post", color=LINE_COLOURS[0], label="best so far")
            _log_if_wide(axes, "y", values)
            if pruned:
                axes.plot(
                    pruned,
                    np.zeros(len(pruned)) + 0.02,
                    "x",
                    markersize=4,
                    color=GREY,
                    transform=axes.get_xaxis_transform(),
                    label="pruned",
                )
            axes.set_ylabel(name)
            axes.grid(True)
            axes.set_axisbelow(True)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
        panels[-1].set_xlabel("trial")
        panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def importances(study: optuna.Study, sweep: Sweep) -> list[dict[str, float]]:
    """Objective by objective, parameter -> share; {} where trials are few or all alike. Shares sum to 1.

    Only parameters drawn in every trial: what a conditional one does is mixed with what its condition does.
    PED-ANOVA: how much a parameter's distribution among the best tenth differs from that among all
    (https://arxiv.org/abs/2304.10255).
    """
    trials = complete_trials(study)
    if len(trials) < LEAST_FOR_IMPORTANCE:
        return [{} for _ in sweep.objectives]
    return [_importance(study, sweep, trials, index) for index in range(len(sweep.objectives))]


def _importance(study: optuna.Study, sweep: Sweep, trials: Sequence[FrozenTrial], index: int) -> dict[str, float]:
    values = {trial.values[index] for trial in trials}
    if len(values) < 2:
        return {}
    always = [name for name in sweep.parameters if all(name in trial.params for trial in trials)]
    if not always:
        return {}
    with quiet_optuna(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PedAnovaImportanceEvaluator computes the importances of params to")
        found = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(), params=always, target=lambda trial: trial.values[index]
        )
    return dict(found) if any(found.values()) else {}


def importance_figure(shares: Sequence[dict[str, float]], sweep: Sweep) -> Figure:
    """Bars per parameter, a panel per objective."""
    longest = max(len(share) for share in shares)
    with styled():
        figure = Figure(figsize=(6.4, len(shares) * (0.9 + 0.28 * longest)), layout="constrained")
        panels = figure.subplots(len(shares), 1, squeeze=False)[:, 0]
        for axes, share, name in zip(panels, shares, sweep.objectives, strict=True):
            ordered = sorted(share.items(), key=lambda item: item[1])
            axes.barh([key for key, _ in ordered], [value for _, value in ordered], color=LINE_COLOURS[0], height=0.6)
            for place, (_, value) in enumerate(ordered):
                axes.annotate(f"{value:.2f}", (value, place), (4, 0), textcoords="offset points", va="center", size=8)
            axes.set_xlim(0, 1.08)
            axes.set_title(f"share of {name}", loc="left")
    return figure


def slices_figure(study: optuna.Study, sweep: Sweep) -> Figure:
    """The first objective against every parameter, a panel each; the best trial is ringed."""
    trials, names = complete_trials(study), list(sweep.parameters)
    across = min(3, len(names))
    down = -(-len(names) // across)
    best = min(trials, key=lambda trial: trial.values[0])
    with styled():
        figure = Figure(figsize=(3.1 * across, 2.6 * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, names, strict=False):
            _draw_slice(axes, sweep, name, [trial for trial in trials if name in trial.params], best)
        for row in grid:
            row[0].set_ylabel(sweep.objectives[0])
    return figure


def _draw_slice(axes: Axes, sweep: Sweep, name: str, trials: list[FrozenTrial], best: FrozenTrial) -> None:
    parameter = sweep.parameters[name]
    values = np.array([trial.values[0] for trial in trials])
    if isinstance(parameter, Categorical):
        choices = list(parameter.choices)
        places = np.array([choices.index(trial.params[name]) for trial in trials], dtype=np.float64)
        # Many trials have one choice: spread them, always in the same way.
        shown = places + 0.5 * (np.arange(len(places)) * 0.618 % 1 - 0.5)
        longest = max(len(str(choice)) for choice in choices)
        axes.set_xticks(range(len(choices)), [str(choice) for choice in choices])
        if longest > 6:
            axes.tick_params(axis="x", labelrotation=20)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(choices) - 0.5)
    else:
        shown = np.array([trial.params[name] for trial in trials], dtype=np.float64)
        if parameter.log:
            plain_log_axis(axes, "x")
    axes.plot(shown, values, "o", markersize=4, color=LINE_COLOURS[0], alpha=0.7)
    for index, trial in enumerate(trials):
        if trial.number == best.number:
            axes.plot(shown[index], values[index], "o", markersize=10, mfc="none", mec=LINE_COLOURS[1], mew=1.8)
    if values.size:
        _log_if_wide(axes, "y", values)
    axes.set_xlabel(name)
    axes.grid(True)
    axes.set_axisbelow(True)


def _log_if_wide(axes: Axes, which: str, values: np.ndarray) -> None:
    if values.size and values.min() > 0 and values.max() / values.min() > 5:
        plain_log_axis(axes, which)

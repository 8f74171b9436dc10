"""Optuna's samplers and pruners by name, their parameters checked against their signatures."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from gqasearch.errors import UserError, unknown_name

T = TypeVar("T")

EXHAUSTIVE = "brute-force"  # ends when everything was drawn
SAMPLERS: dict[str, type[BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "gp": optuna.samplers.GPSampler,
    "cma-es": optuna.samplers.CmaEsSampler,
    "nsga-ii": optuna.samplers.NSGAIISampler,
    "nsga-iii": optuna.samplers.NSGAIIISampler,
    "qmc": optuna.samplers.QMCSampler,
    EXHAUSTIVE: optuna.samplers.BruteForceSampler,
}
PRUNERS: dict[str, type[BasePruner]] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive-halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "threshold": optuna.pruners.ThresholdPruner,
}
# Every worker has to follow the same sequence.
_ONE_SEED = ("qmc",)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without the warnings that heartbeats and some samplers are experimental, and without its log of every trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(before)


def make_sampler(name: str, parameters: Mapping[str, Any], trial: int) -> BaseSampler:
    """The sampler for the trial that will have this number.

    A sampler that kept one seed would draw the same numbers in every worker, and again after every restart: the seed
    is that of the file together with ``trial``.
    """
    given = dict(parameters)
    seed = given.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"sampler {name}: seed must be a whole number of at least 0, got {seed!r}")
    own = seed if name in _ONE_SEED else int(np.random.SeedSequence([seed, trial]).generate_state(1)[0])
    return _make("sampler", SAMPLERS, name, {**given, "seed": own})


def make_pruner(name: str, parameters: Mapping[str, Any]) -> BasePruner:
    """The pruner of this name."""
    return _make("pruner", PRUNERS, name, dict(parameters))


def _make(what: str, known: Mapping[str, type[T]], name: str, parameters: dict[str, Any]) -> T:
    if name not in known:
        raise unknown_name(what, name, known)
    kind = known[name]
    accepted = [
        parameter for parameter in inspect.signature(kind).parameters if parameter not in ("self", "args", "kwargs")
    ]
    for parameter in parameters:
        if parameter not in accepted:
            raise unknown_name(f"parameter of {what} {name}", parameter, accepted)
    try:
        with quiet_optuna():
            return kind(**parameters)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what} {name}: {error}") from None

"""A process that takes one trial after the other until the study has as many as it wants."""

from __future__ import annotations

import multiprocessing
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
import torch
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from gqasearch.budget import require_several_heads
from gqasearch.errors import UserError
from gqasearch.libraries import quiet_libraries
from gqasearch.steps import ProcessCache, Workspace
from gqasearch.sweeps.drawn_parameters import extreme_draws
from gqasearch.sweeps.objectives import require_measurable
from gqasearch.sweeps.optimisers import make_sampler, quiet_optuna
from gqasearch.sweeps.storage import storage_errors
from gqasearch.sweeps.study import ERROR, Place, Standing, agree, load
from gqasearch.sweeps.trial import run_trial

POLL_SECONDS = 0.5


def work(place: Place, threads: int | None, errors: Any) -> None:
    """A worker process. A message for the user goes through the pipe ``errors``; SIGTERM puts its trial back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on, once
    signal.signal(signal.SIGTERM, _interrupt)
    if threads is not None:
        torch.set_num_threads(threads)
    quiet_libraries()
    try:
        with storage_errors(place.storage.url):
            Worker(place).run()
    except UserError as error:
        errors.send(str(error))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def _interrupt(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@dataclass
class Worker:
    """The loop of one process. ``cache``: model, statistics and errors, shared by its trials."""

    place: Place
    cache: ProcessCache = field(default_factory=ProcessCache)

    def __post_init__(self) -> None:
        self.study, self.sweep = load(self.place)
        self._silent: dict[int, float] = {}
        self._current: int | None = None

    def run(self) -> None:
        """Until enough trials are decided. Raises ``UserError`` when too many went wrong."""
        self._agree()
        while (step := self.step()) != "done":
            if step == "wait":
                time.sleep(POLL_SECONDS)

    def step(self) -> Literal["ran", "wait", "done"]:
        """Run a trial, unless there are enough or those under way may be."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            return "done"
        with quiet_optuna(), ExitStack() as lock:
            lock.enter_context(self.place.storage.lock())
            self._recover()
            standing = Standing.of(self.study)
            if standing.is_done:
                return "done"
            if len(standing.wrong) > standing.max_failed:
                raise UserError(_too_many(standing.wrong))
            if standing.decided + standing.running >= standing.wanted:
                return "wait"
            self._optimize(lock)
        return "ran"

    def _optimize(self, lock: ExitStack) -> None:
        """One trial; the lock is given back as soon as it is drawn, so that nobody draws one too many."""
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = make_sampler(self.sweep.sampler.name, self.sweep.sampler.parameters, number)

        def objective(trial: optuna.Trial) -> list[float]:
            self._current = trial.number
            lock.close()
            return run_trial(self.study, trial, self.sweep, self.place, self.cache)

        try:
            self.study.optimize(objective, n_trials=1, catch=(Exception,))
        except ValueError:
            if not self._was_taken_for_dead():
                raise
        except KeyboardInterrupt:
            self._put_back()
            raise
        finally:
            self._current = None

    def _was_taken_for_dead(self) -> bool:
        """Whether others gave up this trial meanwhile, and it runs again elsewhere: its result is not needed."""
        return self._current is not None and self._trial(self._current).state != TrialState.RUNNING

    def _put_back(self) -> None:
        """An interrupted trial waits for the next worker."""
        if self._current is not None and self._trial(self._current).state == TrialState.FAIL:
            self.place.storage.retry(self.study, self._trial(self._current))

    def _trial(self, number: int) -> FrozenTrial:
        return self.study.get_trials()[number]

    def _recover(self) -> None:
        """Fail the trials of dead workers and queue them again. Hold the lock."""
        fail_stale_trials(self.study)
        silent = self.place.storage.silent_trials(self.study.study_name)
        now = time.monotonic()
        self._silent = {number: self._silent.get(number, now) for number in silent}
        for number, since in self._silent.items():
            if now - since > self.place.storage.heartbeat.grace:
                self.study.tell(number, state=TrialState.FAIL)
                self.place.storage.retry(self.study, self._trial(number))

    def _agree(self) -> None:
        """Hold the model and the text of this machine against those that the study was measured on."""
        _, _, drawn = next(extreme_draws(self.sweep.parameters))
        space = Workspace(self.sweep.trial_config(drawn), cache=self.cache)
        require_several_heads(space.source.geometry)
        require_measurable(self.sweep.objectives, space.source)
        facts = {"model": space.parent.identity, "validation text": space.blocks("evaluation").fingerprint}
        with self.place.storage.lock():
            agree(self.study, facts)


def _too_many(wrong: tuple[FrozenTrial, ...]) -> str:
    last = wrong[-1]
    return (
        f"{len(wrong)} trials failed, more than max_failed; the last, {last.number}, with {last.params}: "
        f"{last.user_attrs[ERROR]}"
    )

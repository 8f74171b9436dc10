"""Runs shown in other tools while they go on: ``gqasearch search --track NAME``; one file per tool."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from gqasearch.errors import UserError, unknown_name
from gqasearch.run import RunListener
from gqasearch.tracking._base import Guarded, Tracker
from gqasearch.tracking.tensorboard import TensorBoard
from gqasearch.tracking.wandb import WandB

__all__ = ["TRACKERS", "Tracker", "make_tracker", "tracked"]

TRACKERS: dict[str, type[Tracker]] = {kind.name: kind for kind in (TensorBoard, WandB)}


def make_tracker(name: str) -> Tracker:
    """A tracker for one run; raises ``UserError`` for an unknown one, or one whose package is not installed."""
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    package = TRACKERS[name].package
    found = find_spec(package)
    if found is None or found.origin is None:  # the latter: a folder of that name, as wandb leaves behind
        raise UserError(f"--track {name} needs the package {package}: pip install 'gqasearch[{name}]'")
    return TRACKERS[name]()


@contextmanager
def tracked(names: Iterable[str], warn: Callable[[str], None]) -> Iterator[list[RunListener]]:
    """Trackers as listeners of one run, each once. ``warn``: told, once, that one failed; the run goes on."""
    trackers = [Guarded(make_tracker(name), warn) for name in dict.fromkeys(names)]
    try:
        yield list(trackers)
    finally:
        for tracker in trackers:
            tracker.close()

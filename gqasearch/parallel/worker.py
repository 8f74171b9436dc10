"""The worker's side: it prepares once, then answers; whatever is raised goes back to the parent as it is."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gqasearch.contract import Facts, Item, PreparedFitness, Question
from gqasearch.libraries import quiet_libraries
from gqasearch.parallel.blueprint import Blueprint


@dataclass(frozen=True)
class Raised:
    """An exception on its way to the parent; ``trace``: where the worker was."""

    error: Exception
    trace: str

    def again(self) -> Exception:
        """The exception, with the worker's traceback as a note."""
        self.error.add_note(f"In a worker:\n{self.trace}")
        return self.error


Prepared = dict[str, Facts] | Raised
Answer = tuple[float, ...] | Raised


class Worker:
    """Holds the model and the fitness functions bound to it."""

    def __init__(self) -> None:
        self._prepared: dict[str, PreparedFitness] = {}

    def prepare(self, blueprint: Blueprint) -> Prepared:
        """Load the model, bind the fitness functions."""
        quiet_libraries()
        try:
            self._prepared = blueprint.prepare()
            return {name: Facts.of(prepared) for name, prepared in self._prepared.items()}
        except Exception as error:  # noqa: BLE001 - it is the parent that knows what to do
            return raised(error)

    def answer(self, question: Question, items: Sequence[Item]) -> Answer:
        """One value per item."""
        try:
            values = tuple(question.of(self._prepared[question.fitness], items))
        except Exception as error:  # noqa: BLE001
            return raised(error)
        if len(values) != len(items):
            return raised(ValueError(f"fitness {question.fitness} gave {len(values)} values for {len(items)} items"))
        return values


def raised(error: Exception) -> Raised:
    """The error itself where it survives the journey, else its words: one that does not would look like a death."""
    trace = "".join(traceback.format_exception(error))
    try:
        sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - a class may fail in any way here
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    return Raised(sent, trace)


_worker = Worker()  # of this process, where it is a plain one


def prepare_here(blueprint: Blueprint) -> Prepared:
    """``Worker.prepare`` of this process's own worker."""
    return _worker.prepare(blueprint)


def answer_here(question: Question, items: Sequence[Any]) -> Answer:
    """``Worker.answer`` of this process's own worker."""
    return _worker.answer(question, items)

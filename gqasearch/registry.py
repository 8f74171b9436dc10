"""Classes of one kind by name: those that come with the package, and those that installed packages offer.

Fitness functions, merges, refinements, search methods and layouts of checkpoints are found the same way. A package
offers its own by an entry point (https://packaging.python.org/specifications/entry-points), whose name is the class's:

    [project.entry-points."gqasearch.merges"]
    my-merge = "my_package:MyMerge"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from gqasearch.errors import UserError, unknown_name
from gqasearch.parameters import construct

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind; nothing is imported before it is asked for.

    ``noun``: what one is called in messages; ``group``: of the entry points; ``base``: the class that all derive from;
    ``facts``: class attributes that each must have; ``built_in``: those of this package, whose names are nobody else's.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        base: type[Any],
        facts: Iterable[str],
        built_in: Mapping[str, type[T]] | None = None,
    ) -> None:
        self.noun, self.group, self.base, self.facts = noun, group, base, tuple(facts)
        self.built_in: dict[str, type[T]] = dict(built_in or {})

    def available(self) -> dict[str, type[T]]:
        """Name -> class of every one that can be used: those of this package first."""
        return {name: found for name, found in self._all().items() if not isinstance(found, UserError)}

    def broken(self) -> dict[str, str]:
        """Name -> package, entry point and reason of every installed one that cannot be used."""
        return {name: str(found) for name, found in self._all().items() if isinstance(found, UserError)}

    def make(self, name: str, parameters: dict[str, Any] | None = None) -> T:
        """The one of this name; an unknown name or parameter is a ``UserError`` with the nearest valid one."""
        return construct(self.find(name), f"{self.noun} {name}", parameters or {})

    def find(self, name: str) -> type[T]:
        """The class of this name; others that are installed are not looked at: a broken one is in nobody's way."""
        points = self._points(name)
        if points:
            return self._load(points)
        if name not in self.built_in:
            raise unknown_name(self.noun, name, self.available())
        return self.built_in[name]

    def _all(self) -> dict[str, type[T] | UserError]:
        """Name -> class, or why there is none."""
        found: dict[str, type[T] | UserError] = dict(self.built_in)
        for name in sorted({point.name for point in self._points()}):
            try:
                found[name] = self._load(self._points(name))
            except UserError as error:
                found[name] = error
        return found

    def _points(self, name: str | None = None) -> list[EntryPoint]:
        """Entry points of this name or all, each once however often its package is found."""
        points = [one for one in entry_points(group=self.group) if name in (None, one.name)]
        return list({(_package(one), one.name, one.value): one for one in points}.values())

    def _load(self, points: list[EntryPoint]) -> type[T]:
        """The class behind all the entry points of one name. Raises ``UserError``: package, entry point, reason."""
        point = points[0]
        where = f"{self.noun} {point.name} ({' and '.join(f'{_package(one)}: {one.value}' for one in points)})"
        if point.name in self.built_in:
            raise UserError(f"{where}: gqasearch itself has a {self.noun} of this name; uninstall the package")
        if len(points) > 1:
            raise UserError(f"{where}: two installed packages offer this name; uninstall one")
        try:
            loaded = point.load()
        except (Exception, SystemExit) as error:  # a plug-in's module may do anything; its reason must not be lost
            raise UserError(f"{where} cannot be imported: {type(error).__name__}: {_one_line(error)}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            raise UserError(f"{where} is no subclass of {self._base_name}")
        if missing := [fact for fact in self.facts if not hasattr(loaded, fact)]:
            raise UserError(f"{where} does not say its {', '.join(missing)}; see CONTRIBUTING.md")
        if (said := getattr(loaded, "name", None)) != point.name:
            raise UserError(f"{where} calls itself {said!r}")
        return loaded

    @property
    def _base_name(self) -> str:
        """Where authors import it from: private modules are left out."""
        module = ".".join(part for part in self.base.__module__.split(".") if not part.startswith("_"))
        return f"{module}.{self.base.__name__}"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no reason given"

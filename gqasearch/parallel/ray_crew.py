"""Ray: one actor per GPU, or per ``threads`` cores, holds the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from gqasearch.contract import Item, Question
from gqasearch.errors import UserError
from gqasearch.parallel.blueprint import Blueprint
from gqasearch.parallel.crew import Crew, Seat
from gqasearch.parallel.ray_cluster import RayCluster
from gqasearch.parallel.shipment import OwnFolder, read_folder, write_folder
from gqasearch.parallel.worker import Answer, Prepared, Worker, raised

PLACEMENT_SECONDS = 30.0
LEAVE_SECONDS = 2.0
log = logging.getLogger(__name__)


class Actor(Worker):
    """A worker on some node. Files that came as bytes are written to a folder of its own, for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()
        self._folder: OwnFolder | None = None

    def node(self) -> str:
        """Id of the node that it is on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def prepare_sent(self, blueprint: Blueprint, model: dict[str, Any], statistics: dict[str, Any]) -> Prepared:
        """``prepare``, with file name -> reference to its bytes; {} for a folder that is here already."""
        try:
            plan = self._unpacked(blueprint, model, statistics) if model else blueprint
        except Exception as error:  # noqa: BLE001 - a full disk, say
            return raised(error)
        return self.prepare(plan)

    def leave(self) -> None:
        """Remove what it wrote."""
        if self._folder is not None:
            self._folder.remove()

    def _unpacked(self, blueprint: Blueprint, model: dict[str, Any], statistics: dict[str, Any]) -> Blueprint:
        import ray

        self._folder = OwnFolder()
        places: list[Path | None] = []
        for name, references in (("model", model), ("statistics", statistics)):
            path = self._folder.path / name
            if references:
                write_folder(dict(zip(references, ray.get(list(references.values())), strict=True)), path)
            places.append(path if references else None)
        return blueprint.in_folders(places[0] or blueprint.model_folder, places[1])


class RaySeat(Seat):
    """One actor, in a placement group of its own, which tells at once whether there is room for it."""

    def __init__(self, crew: RayCrew, group: Any) -> None:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self.crew, self.group = crew, group
        # Its death is the evaluator's to judge: Ray itself neither restarts it nor asks again.
        options = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": crew.bundle["CPU"]}
        remote = crew.cluster.ray.remote(Actor).options(
            **options,
            num_gpus=crew.bundle.get("GPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
        )
        self.actor = remote.remote()
        self._node: Future[str] = self.actor.node.remote().future()

    def prepare(self) -> Future[Prepared]:
        sent = self.crew.sent
        found: Future[Prepared] = self.actor.prepare_sent.remote(*sent).future()
        return found

    def ask(self, question: Question, items: Sequence[Item]) -> Future[Answer]:
        found: Future[Answer] = self.actor.answer.remote(question, list(items)).future()
        return found

    def close(self) -> None:
        from ray.util import remove_placement_group

        with suppress(Exception):  # a node that is gone, a connection that is lost: nothing is left to end
            if not self.crew.cluster.is_local:
                # One that computes does not come to it; the next worker on its machine removes what it leaves.
                self.crew.cluster.ray.wait([self.actor.leave.remote()], timeout=LEAVE_SECONDS)
            self.crew.cluster.ray.kill(self.actor)
        with suppress(Exception):
            remove_placement_group(self.group)

    def lost_with_machine(self) -> bool:
        if not self._node.done() or self._node.exception() is not None:
            return False
        alive = {node["NodeID"] for node in self.crew.cluster.ray.nodes() if node["Alive"]}
        return self._node.result() not in alive


class RayCrew(Crew):
    """Actors of a cluster: as many as its nodes have room for, ``most`` at most.

    Where the cluster may have other machines, the model's and the statistics' files go once through Ray's object
    store, and every actor takes them from there.
    """

    def __init__(self, blueprint: Blueprint, address: str, most: int | None = None) -> None:
        self.most = most
        self.cluster = RayCluster(address)
        try:
            from ray import exceptions

            self.deaths = (exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.OutOfMemoryError)
            on_gpu = blueprint.device.startswith("cuda")
            self.bundle = {"CPU": float(blueprint.threads)} | ({"GPU": 1.0} if on_gpu else {})
            # An actor sees no GPU but its own.
            self.sent = self._send(blueprint.on_device("cuda") if on_gpu else blueprint)
        except BaseException:
            self.cluster.close()
            raise

    def _send(self, blueprint: Blueprint) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        put = self.cluster.ray.put
        if self.cluster.is_local:
            return put(blueprint), {}, {}
        model = {name: put(content) for name, content in read_folder(blueprint.model_folder).items()}
        if blueprint.statistics is None:
            return put(blueprint), model, {}
        statistics = {name: put(content) for name, content in read_folder(blueprint.statistics.folder).items()}
        return put(blueprint), model, statistics

    def seats(self) -> list[Seat]:
        """As many as there is room for, one at least."""
        fit = [min(int(node.get(kind, 0) / wanted) for kind, wanted in self.bundle.items()) for node in self._nodes()]
        count = sum(fit) if self.most is None else min(self.most, sum(fit))
        groups = [self._group() for _ in range(max(1, count))]
        until = time.monotonic() + PLACEMENT_SECONDS
        placed = [group for group in groups if group.wait(max(0.0, until - time.monotonic()))]
        if not placed:
            self._refuse(groups)
        if len(placed) < len(groups):
            log.warning("%d of %d workers found a place; %s", len(placed), len(groups), self.cluster.words())
        return [RaySeat(self, group) for group in placed]

    def replace(self, lost: Seat) -> Seat:
        group = self._group()
        if not group.wait(PLACEMENT_SECONDS):
            self._refuse([group])
        return RaySeat(self, group)

    def _nodes(self) -> list[dict[str, float]]:
        return self.cluster.nodes()

    def _group(self) -> Any:
        from ray.util import placement_group

        return placement_group([self.bundle], strategy="PACK")

    def _refuse(self, groups: list[Any]) -> None:
        from ray.util import remove_placement_group

        words = self.cluster.words()
        for group in groups:
            remove_placement_group(group)
        wanted = " and ".join(f"{count:g} {kind}" for kind, count in self.bundle.items())
        raise UserError(f"a worker of {wanted} found no place in {PLACEMENT_SECONDS:g} s: {words}")

    def close(self) -> None:
        self.cluster.close()

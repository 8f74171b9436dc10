"""Ray: a cluster of this machine alone, and one of two nodes of which one is killed in mid-generation."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gqasearch.errors import UserError
from gqasearch.fitness import PreparedFitness
from gqasearch.grouping import Grouping
from gqasearch.parallel import Blueprint, Workers, ray_cluster, ray_crew, spread_fitness, start_workers
from tests.parallel.plugins import Faulty, code

ROOT = Path(__file__).resolve().parents[2]
# Ray reads these when it is imported, which no test may do before.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'gqasearch[ray]'")

Prepared = dict[str, PreparedFitness]
pytestmark = [
    # Ray's own: of files and sockets that it leaves to the garbage collector when it ends.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any, str]]:
    """A cluster of two nodes with one core each; the second node; the address for clients."""
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join([str(ROOT), str(ROOT / "fitness"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", paths)
    # Short, for the paths of sockets; what a killed node leaves goes with it.
    scratch = tempfile.mkdtemp(prefix="gqasearch-", dir="/tmp")
    monkeypatch.setenv("TMPDIR", scratch)
    port = free_port()
    head = {"num_cpus": 1, "ray_client_server_port": port, "include_dashboard": False, "object_store_memory": 2**27}
    # How soon a node that does not answer counts as lost.
    health = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": health})
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=2**27)
        yield cluster, second, f"ray://127.0.0.1:{port}"
    finally:
        cluster.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def test_a_local_ray_gives_the_bits_of_one_process(
    blueprint: Blueprint, alone: Prepared, groupings: list[Grouping], tmp_path: Path, nightly: bool
) -> None:
    """One candidate kills the first actor that has it; two actors in `make test-all`."""
    codes = [code(grouping) for grouping in groupings]
    faulty = {
        "once": Faulty(deadly=(codes[1],), mark=str(tmp_path)),
        "refusing": Faulty(refused=codes[3]),
    }
    count = min(2 if nightly else 1, os.cpu_count() or 1)
    with start_workers(Workers(count, "local"), replace(blueprint, fitnesses=blueprint.fitnesses | faulty)) as workers:
        workers.settle()
        assert workers.workers == count
        assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}, "not on loopback"
        found = spread_fitness(workers)
        for name in ("kl", "perplexity"):
            assert found[name].evaluate(groupings[:8]).tolist() == alone[name].evaluate(groupings[:8]).tolist()
        assert found["once"].evaluate(groupings).tolist() == alone["faulty"].evaluate(groupings).tolist()
        assert not workers.failures
        with pytest.raises(UserError, match="is not allowed"):
            found["refusing"].evaluate(groupings[:4])
    assert not ray.is_initialized()


@pytest.mark.nightly
def test_a_node_killed_in_mid_generation_changes_nothing(
    two_nodes: tuple[Any, Any, str],
    blueprint: Blueprint,
    alone: Prepared,
    groupings: Sequence[Grouping],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before that: a worker that no node has room for is an error, in time."""
    cluster, second, address = two_nodes
    slow = replace(blueprint, fitnesses={"slow": Faulty(mark=str(tmp_path), pause=0.3)})
    with start_workers(Workers(None, address), slow) as workers:
        workers.settle()
        assert workers.workers == 2
        with monkeypatch.context() as patch:
            patch.setattr(ray_crew, "PLACEMENT_SECONDS", 1.0)
            patch.setattr(workers.crew, "bundle", {"CPU": 64.0})
            with pytest.raises(UserError, match=r"of 64 CPU found no place in 1 s: the cluster has 2 nodes \(1 CPU"):
                workers.crew.seats()

        def kill() -> None:
            while len(list(tmp_path.iterdir())) < 6:
                time.sleep(0.02)
            cluster.remove_node(second, allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        with caplog.at_level(logging.WARNING):
            found = spread_fitness(workers)["slow"].evaluate(groupings)
        killer.join()
        assert found.tolist() == alone["faulty"].evaluate(groupings).tolist()
        assert workers.workers == 1 and not workers.failures and "its machine is gone" in caplog.text


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'gqasearch\[ray\]'"):
        ray_cluster.import_ray(local=True)


def test_an_address_where_nothing_is_names_what_is_needed(
    blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(UserError, match=r"no connection .*RAY_AUTH_TOKEN"),
        start_workers(Workers(None, "ray://127.0.0.1:9"), blueprint),
    ):
        pass

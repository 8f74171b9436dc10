"""A Ray of this machine alone, or a cluster that runs already: with tokens, on loopback, without reports to anyone."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from types import ModuleType

from gqasearch.errors import UserError
from gqasearch.parallel.choice import LOCAL_RAY

# Ray's processes on this machine: sockets below this folder have a path of at most 107 characters.
SHORT_TEMPORARY = "/tmp"  # noqa: S108 - mkdtemp makes a private folder in it
LOCAL_STORE_BYTES = 2**28  # only answers and token blocks pass through it


def import_ray(*, local: bool) -> ModuleType:
    """Ray, or a ``UserError`` that says how to get it.

    It reads these variables when it is imported, and never again.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if local:
        # Without the first, a Ray of one machine listens on that machine's network address.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"--workers ray needs Ray ({error}): pip install 'gqasearch[ray]', or give a number for plain processes"
        ) from None
    module: ModuleType = ray
    return module


class RayCluster:
    """A connection to Ray; ``close`` ends it, and the Ray that it started. Raises ``UserError`` where there is none."""

    def __init__(self, address: str) -> None:
        self.is_local = address == LOCAL_RAY
        self.ray = import_ray(local=self.is_local)
        self._folder: str | None = None
        if self.ray.is_initialized():
            raise UserError("this process uses Ray already; end that (ray.shutdown()) or give a number of processes")
        before = signal.getsignal(signal.SIGTERM)
        try:
            self._start() if self.is_local else self._connect(address)
        except BaseException:
            self.close()
            raise
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)  # Ray puts one of its own there, which exits with code 15

    def _start(self) -> None:
        parent = SHORT_TEMPORARY if os.path.isdir(SHORT_TEMPORARY) else None  # noqa: PTH112
        self._folder = tempfile.mkdtemp(prefix="gqasearch-ray-", dir=parent)
        try:
            self.ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=LOCAL_STORE_BYTES,
                _temp_dir=self._folder,
                # Else Ray kills workers where other programs fill the memory, and their candidates would be blamed.
                _system_config={"memory_monitor_refresh_ms": 0},
            )
        except Exception as error:
            raise UserError(f"--workers ray: Ray did not start here: {_first_line(error)}") from error

    def _connect(self, address: str) -> None:
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise UserError(
                f"--workers {address}: no connection ({_first_line(error)}). Is the cluster's token in RAY_AUTH_TOKEN "
                "or ~/.ray/auth_token, and the client port (10001 unless set otherwise) reachable?"
            ) from error

    def nodes(self) -> list[dict[str, float]]:
        """Resources of every node that is alive."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def words(self) -> str:
        """What the cluster has, for messages."""
        shown = [f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in self.nodes()]
        free = self.ray.available_resources()
        left = f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU are free"
        return f"the cluster has {len(shown)} nodes ({'; '.join(shown) or 'none alive'}); {left}"

    def close(self) -> None:
        """End the connection, and the processes that it started."""
        self.ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

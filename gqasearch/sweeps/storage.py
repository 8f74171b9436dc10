"""Where studies live: SQLite for one machine, PostgreSQL for many; and a lock for what one must do at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from gqasearch.errors import UserError
from gqasearch.run import without_passwords
from gqasearch.sweeps.definition import Heartbeat
from gqasearch.sweeps.optimisers import quiet_optuna

POSTGRESQL = "postgresql+psycopg"
SQLITE_SECONDS = 60.0  # how long a writer waits for another
_LOCK = 7233181500814561831  # of PostgreSQL's advisory locks: any number that others are unlikely to use
# Asked of the server, which would else keep the lock of a machine that lost its network for hours.
_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"

# Optuna never takes these for dead.
_NO_HEARTBEAT = (
    "SELECT trials.number FROM trials JOIN studies ON studies.study_id = trials.study_id "
    "LEFT JOIN trial_heartbeats ON trial_heartbeats.trial_id = trials.trial_id "
    "WHERE trials.state = 'RUNNING' AND trial_heartbeats.trial_id IS NULL AND studies.study_name = "
)
_REFUSED = (
    "journal and gRPC storages have no heartbeat, so the trial of a killed worker would stay RUNNING for ever",
    ("journal", "grpc", "redis", "rediss"),
)


@dataclass(frozen=True)
class Storage:
    """A database that is known to be of a kind that recovers from killed workers; see ``storage_at``."""

    url: str
    heartbeat: Heartbeat = field(default_factory=Heartbeat)

    def __repr__(self) -> str:
        return f"Storage({self.shown})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.url, self.heartbeat)  # a connection belongs to its process

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return without_passwords(self.url)

    @property
    def file(self) -> Path | None:
        """SQLite's file; None for a server."""
        return Path(str(make_url(self.url).database)) if self.url.startswith("sqlite:///") else None

    @cached_property
    def rdb(self) -> RDBStorage:
        """Optuna's storage, its tables made. Raises ``UserError`` where there is no such database."""
        with storage_errors(self.url), quiet_optuna():
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            if self.file is not None:
                with _file_lock(self.file):
                    return self._connect({"timeout": SQLITE_SECONDS})
            options = {"options": _KEEPALIVE, "connect_timeout": 20}
            try:
                return self._connect(options)
            except Exception:  # noqa: BLE001 - where two make the tables at once, one fails, in many ways
                time.sleep(1)
                return self._connect(options)

    def _connect(self, options: dict[str, Any]) -> RDBStorage:
        return RDBStorage(
            self.url,
            engine_kwargs={"connect_args": options, "pool_pre_ping": True},
            heartbeat_interval=self.heartbeat.interval,
            grace_period=self.heartbeat.grace,
            heartbeat_stale_trial_callback=self.retry,
        )

    @cached_property
    def retry(self) -> RetryHeartbeatStaleTrialCallback:
        """Puts a dead trial back into the queue, with its parameters and what it reported."""
        with quiet_optuna():
            return RetryHeartbeatStaleTrialCallback(self.heartbeat.retries, inherit_intermediate_values=True)

    def close(self) -> None:
        """Close its connections; the next use opens others."""
        self.rdb.engine.dispose()

    def silent_trials(self, study_name: str) -> set[int]:
        """Numbers of running trials without any heartbeat: of the last moment, or killed before their first."""
        mark = "?" if self.file is not None else "%s"
        with self.rdb.engine.connect() as connection:
            rows = connection.exec_driver_sql(_NO_HEARTBEAT + mark, (study_name,))
            return {int(row[0]) for row in rows}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by one worker of all that use this database, on any machine; a killed one gives it back."""
        rdb = self.rdb
        if self.file is not None:
            with _file_lock(self.file):
                yield
        else:
            with rdb.engine.begin() as connection:  # the lock is the transaction's
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
                yield


def _file_lock(file: Path) -> FileLock:
    return FileLock(file.with_name(f".{file.name}.lock"))


def storage_at(url: str, heartbeat: Heartbeat | None = None) -> Storage:
    """The storage of a URL; refuses, with the reason, those that lose the trials of killed workers."""
    scheme, separator, rest = url.partition("://")
    reason, names = _REFUSED
    if separator and scheme != "sqlite" and any(letter.isspace() for letter in url):
        # Not shown: where its password ends cannot be told, here as little as in what else repeats it.
        raise UserError("storage: the URL has a space in it; write %20 for one in a password")
    if scheme.startswith(names) or (not separator and url.endswith((".log", ".journal"))):
        raise UserError(
            f"storage {without_passwords(url)}: {reason}. Use sqlite:///FILE or {POSTGRESQL}://HOST/DATABASE"
        )
    if scheme in ("postgresql", "postgres", "postgresql+psycopg2"):
        url = f"{POSTGRESQL}://{rest}"  # the driver of the [postgresql] extra
    elif scheme == "sqlite":
        url = sqlite_url(_sqlite_file(url))
    elif scheme != POSTGRESQL:
        known = f"sqlite:///FILE or {POSTGRESQL}://USER@HOST/DATABASE"
        raise UserError(f"storage {without_passwords(url)}: unknown kind {scheme!r}; expected {known}")
    if scheme != "sqlite" and not _database(url):
        raise UserError(f"storage {without_passwords(url)} names no database: {POSTGRESQL}://USER@HOST/DATABASE")
    return Storage(url, heartbeat or Heartbeat())


def sqlite_url(file: Path) -> str:
    """The URL of a file, whose name may have letters that mean something else in a URL (?, %, #)."""
    path = str(file.expanduser().absolute())
    url = URL.create("sqlite", database=path).render_as_string(hide_password=False)
    if make_url(url).database != path:  # versions of SQLAlchemy differ in what they quote
        raise UserError(f"{path} cannot be written as a URL; give another --output-dir, or --storage")
    return url


def _sqlite_file(url: str) -> Path:
    """The file that a user's URL names; what a URL keeps for itself is written %XX in it."""
    expected = f"storage {url}: expected sqlite:///FILE; workers are processes and share a file"
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError(expected) from None
    if parts.host or parts.database in (None, "", ":memory:"):
        raise UserError(expected)
    if "?" in url:
        raise UserError(f"storage {url}: takes no options after '?'; a question mark in a file's name is written %3F")
    return Path(str(parts.database))


def _database(url: str) -> str:
    """The database's name in a URL, empty if there is none; refuses what the driver would not read."""
    shown = without_passwords(url)  # in which no letter of the password ends another part
    try:
        parts = urlsplit(shown)
        _ = parts.port  # raises
        return parts.path.strip("/")
    except ValueError:
        raise UserError(
            f"storage {shown}: no URL of the form {POSTGRESQL}://USER@HOST:PORT/DATABASE; "
            "in a user's name or password, letters other than a-z, A-Z and 0-9 are written %XX"
        ) from None


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """What a database says, without its password, in one message."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"storage {without_passwords(url)}: {error}; pip install 'gqasearch[postgresql]'") from None
    except Exception as error:
        # sqlalchemy comes with Optuna; its errors wrap those of whatever driver there is.
        if not isinstance(error, StorageInternalError) and not type(error).__module__.startswith("sqlalchemy."):
            raise
        said = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"storage {without_passwords(url)}: {without_passwords(said)}") from None

"""A PostgreSQL of one's own: a folder, a free port of loopback, a password; gone when the block is left."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DATABASE, USER = "postgres", "sweeper"
UNPRIVILEGED = ("postgres", "nobody")  # initdb refuses to be run by root


def programs() -> Path | None:
    """Folder of initdb and pg_ctl: of Debian's newest packages, or on the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = debian[-1] if debian else shutil.which("initdb")
    return Path(found).parent if found else None


def why_not() -> str | None:
    """Why no server can be started here; None if one can."""
    if programs() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if os.getuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no other user"
    return None


@contextmanager
def server() -> Iterator[str]:
    """Gives the URL of an empty database, password included."""
    binaries = programs()
    if binaries is None:
        raise RuntimeError(why_not())
    folder = Path(tempfile.mkdtemp(prefix="gqasearch-postgresql-", dir="/tmp"))
    password = secrets.token_urlsafe(16)
    secret = folder / "password"
    secret.write_text(password, encoding="utf-8")
    if (user := _user()) is not None:
        for path in (folder, secret):
            os.chown(path, user.pw_uid, user.pw_gid)
    data, port = folder / "data", _free_port()
    _run(binaries / "initdb", "-D", data, "-U", USER, f"--pwfile={secret}", "-A", "scram-sha-256", "-E", "UTF8", "-N")
    settings = f"-h 127.0.0.1 -p {port} -c unix_socket_directories='' -c fsync=off"
    try:
        _run(binaries / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", settings, "start")
        yield f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"
    finally:
        _run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def _user() -> pwd.struct_passwd | None:
    """Whom a server is run as by root; None for everyone else."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next((known[name] for name in UNPRIVILEGED if name in known), None)


def _run(*command: str | Path) -> None:
    user = _user()
    result = subprocess.run(  # noqa: S603 - PostgreSQL's own programs
        [str(word) for word in command],
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else (),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    if result.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {result.stdout}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

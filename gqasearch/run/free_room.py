"""What this machine has free: memory, under the limits of control groups (containers, batch systems), and disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MEMINFO, OWN_GROUPS, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
UNLIMITED = 2**60  # version 1 says so with a number near 2^63


def free_memory() -> int | None:
    """Bytes that this process can still get without swapping; None where the system does not tell (not Linux)."""
    with suppress(OSError, ValueError, IndexError):
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return max(0, min([machine, *_free_of_groups()]))
    return None


def free_disk(folder: Path) -> int:
    """Bytes free where ``folder`` is, or will be made."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def same_disk(one: Path, other: Path) -> bool:
    """Whether two folders, there or to be made, share their space."""
    places = []
    for there in (one.absolute(), other.absolute()):
        while not there.exists():
            there = there.parent
        places.append(there.stat().st_dev)
    return places[0] == places[1]


def _free_of_groups() -> Iterator[int]:
    """What the memory limit of every group that this process is in leaves free."""
    for line in OWN_GROUPS.read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = GROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = GROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                break
            with suppress(OSError, ValueError):  # a container does not see the groups that it is in by their path
                yield from _free_of_group(group, *names)


def _free_of_group(group: Path, limit: str, usage: str, cached: str) -> Iterator[int]:
    most = (group / limit).read_text(encoding="ascii").strip()
    if most == "max" or int(most) >= UNLIMITED:
        return
    used = int((group / usage).read_text(encoding="ascii"))
    lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    given_back = sum(int(line.split()[1]) for line in lines if line.split()[:1] == [cached])
    yield int(most) - used + given_back

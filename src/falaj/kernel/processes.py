"""What processes of this machine use now, as the kernel tells it."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> list[int]:
    """A process and all that descend from it, as far as they still are."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for thread in _listed(Path(f"/proc/{one}/task")):
            try:
                children = (thread / "children").read_text()
            except OSError:
                continue
            waiting += map(int, children.split())
    return found


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants; 0 if it has gone."""
    total = 0
    for one in family(pid):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            continue
    return total


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def bytes_moved(pid: int) -> tuple[int, int]:
    """Bytes that a process has read from and written to disks; zeros if it has gone."""
    try:
        told = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    except (OSError, ValueError):
        return 0, 0
    return int(told.get("read_bytes", 0)), int(told.get("write_bytes", 0))


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []

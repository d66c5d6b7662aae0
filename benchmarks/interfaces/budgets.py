"""The budgets that hold everywhere: import, help, an action over HTTPS, start, memory, disk.

Everything is measured from outside: processes of their own, a real ``falaj up`` on free
ports in a temporary folder. The floors are a bare interpreter for the processes, and the
same server's ``/healthz`` (no token, no policy, no transaction) for the action.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, quantile, report

from falaj.testing.installations import SURROUNDINGS, Installation, client, falaj_command

MB = 1024 * 1024
VERSIONS = {name: version(name) for name in ("falaj", "uvicorn", "fastapi", "sqlalchemy")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    small = given.size == "small"
    rows = [*started(5 if small else 15), installed()]
    rows += served(calls=300 if small else 3_000, starts=3 if small else 9)
    report("interfaces", "Budgets that hold everywhere", rows, given)


def within(
    work: str, size: str, unit: str, ours: float, most: float, floor: float | None = None
) -> Row:
    """A row with a budget that is kept by staying at or below it."""
    return Row(
        work,
        size,
        unit,
        ours,
        floor=floor,
        goal=f"≤ {most:g} {unit}",
        met=ours <= most,
        versions=VERSIONS,
    )


# -- processes -------------------------------------------------------------------------


def started(rounds: int) -> list[Row]:
    """``import falaj`` (beyond a bare interpreter) and ``falaj --help`` (all of it)."""
    with tempfile.TemporaryDirectory() as name:
        helped = falaj_command(Path(name), "--help")
        bare, imported, told = in_turn(
            lambda: ran([sys.executable, "-c", "pass"]),
            lambda: ran([sys.executable, "-c", "import falaj"]),
            lambda: ran(helped),
            rounds=rounds,
        )
    floor = median(bare) * 1e3
    alone = max(0.0, median(imported) * 1e3 - floor)
    size = f"{rounds} processes"
    return [
        within("import falaj, beyond a bare interpreter", size, "ms", alone, 150),
        within("falaj --help", size, "ms", median(told) * 1e3, 400, floor),
    ]


def ran(command: list[str]) -> None:
    """Run a process to its end; raises CalledProcessError."""
    environment = {**os.environ, **SURROUNDINGS}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


# -- disk ------------------------------------------------------------------------------


def installed() -> Row:
    """The installed files of falaj and of all that its base dependencies need, no extras."""
    names = sorted(closure("falaj"))
    n_bytes = sum(file.stat().st_size for name in names for file in files_of(name))
    return within("base install on disk", f"{len(names)} packages", "MB", n_bytes / MB, 900)


def files_of(name: str) -> Iterator[Path]:
    """A distribution's files; of falaj, those of the package itself (it may be editable)."""
    if name == "falaj":
        package = Path(__file__).parents[2] / "src" / "falaj"
        yield from (file for file in package.rglob("*") if file.is_file())
        return
    for entry in distribution(name).files or ():
        path = Path(str(entry.locate()))
        if path.is_file():
            yield path


def closure(root: str) -> set[str]:
    """The names of a distribution and of those that it needs here, without extras asked for."""
    found: set[str] = set()
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        name, extras = item
        found.add(name)
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            wanted = [
                needed.marker is None
                or needed.marker.evaluate({**default_environment(), "extra": extra})
                for extra in (extras or {""})
            ]
            if any(wanted):
                canonical = needed.name.lower().replace("_", "-")
                waiting.append((present(canonical), frozenset(needed.extras)))
    return found


def present(name: str) -> str:
    """The name, if it is installed; a base dependency that is not is an error."""
    try:
        distribution(name)
    except PackageNotFoundError:
        sys.exit(f"{name}, which the base install needs, is not installed here")
    return name


# -- the running platform --------------------------------------------------------------


def served(*, calls: int, starts: int) -> list[Row]:
    """``falaj up``: until it is ready, at rest, and one action over HTTPS."""
    with tempfile.TemporaryDirectory() as name:
        platform = Installation(Path(name) / "project")
        platform.init()
        seconds = []
        for number in range(starts):
            seconds.append(timed_up(platform))
            if number < starts - 1:
                platform.stop()
        try:
            time.sleep(3)
            rest = resident(platform.pid("control"))
            workers = {
                child: resident(pid) for child, pid in platform.children().items()
            }  # as they are before anything was asked
            ours, floor = asked(platform, calls)
        finally:
            platform.stop()
    rows = [
        within("falaj up to ready", f"{starts} starts", "s", median(seconds), 3),
        within("control plane at rest", "resident", "MB", rest, 180),
    ]
    rows += [
        Row(f"{child} at rest", "resident", "MB", size, versions=VERSIONS)
        for child, size in workers.items()
        if child != "control"
    ]
    p50, least = median(ours) * 1e3, median(floor) * 1e3
    rows.append(within("an action over HTTPS, p50", f"{calls} calls", "ms", p50, 6, least))
    rows.append(
        Row(
            "an action over HTTPS, p99",
            f"{calls} calls",
            "ms",
            quantile(ours, 0.99) * 1e3,
            floor=quantile(floor, 0.99) * 1e3,
            versions=VERSIONS,
        )
    )
    return rows


def timed_up(platform: Installation) -> float:
    """Seconds from the command to the line that says where it listens."""
    began = time.perf_counter()
    platform.up()
    return time.perf_counter() - began


def resident(pid: int) -> float:
    """The resident size of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def asked(platform: Installation, calls: int) -> tuple[list[float], list[float]]:
    """Seconds of each ``jobs.list`` and of each ``/healthz``, in turn on one connection."""
    with platform.near(stepped_up=True) as owner:
        link = owner.accounts.invite("bench", ["viewer"])
    person = platform.enrolled("bench", link.secret.get_secret_value())
    with client(platform.control, platform.ca, person.token) as web:
        listed = web.get("/api/jobs").raise_for_status().json()
        if listed != []:
            sys.exit(f"a new platform has jobs: {listed}")

        def get(path: str) -> Callable[[], object]:
            return lambda: web.get(path).raise_for_status()

        action, bare = in_turn(get("/api/jobs"), get("/healthz"), rounds=calls, warm=20)
    return action, bare


if __name__ == "__main__":
    main()

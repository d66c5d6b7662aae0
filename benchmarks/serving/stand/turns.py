"""Servers measured in turn: each alone on the server's core while the others are stopped."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from measuring import Row, median

from stand import ours
from stand.load import HOW_TO_GET_WRK, Load, client_name, has_wrk
from stand.peers import Peer
from stand.processes import ServerProcess

RATE, CPU, P50, P99 = "requests/s", "µs CPU/request", "p50 ms", "p99 ms"
UNITS = ((RATE, "more"), (CPU, "less"), (P50, "less"), (P99, "less"))


@dataclass
class Contestant:
    """One server under one load, and what was measured of it."""

    name: str
    server: ServerProcess
    load: Load
    found: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    n_answers: int = 0
    n_errors: int = 0
    """Answers that are not 200, and connections that broke; they count in no rate."""
    ended: bool = False
    """True of a peer that has ended by itself."""

    def measure(self, connections: int, seconds: float, *, keep: bool) -> None:
        """One round; raises RuntimeError if no answer is 200."""
        self.server.check()
        before = ours.cpu_by_role(self.server)
        measured = self.load.run(connections, seconds)
        for _ in range(3):
            if measured.n:
                break
            # On a machine that is busy with other things a slow server may miss a short round.
            self.server.check()
            before = ours.cpu_by_role(self.server)
            measured = self.load.run(connections, 2 * seconds)
        after = ours.cpu_by_role(self.server)
        if not keep:
            return
        self.n_answers += measured.n
        self.n_errors += measured.errors
        good = measured.n - measured.errors
        if good <= 0:
            raise RuntimeError(
                f"{self.name} answered nothing well in {measured.seconds:.1f} s, "
                f"{measured.errors} errors\n{self.server.said()}"
            )
        used = {role: (after[role] - before[role]) / good * 1e6 for role in after}
        for unit, value in (
            (RATE, good / measured.seconds),
            (CPU, sum(used.values())),
            (P50, measured.p50_ms),
            (P99, measured.p99_ms),
            *used.items(),
        ):
            self.found.setdefault((connections, unit), []).append(value)

    def of(self, connections: int, unit: str) -> float:
        """The median of the rounds."""
        return median(self.found[connections, unit])


def measured(
    contestants: Sequence[Contestant], connections: Sequence[int], *, rounds: int, seconds: float
) -> None:
    """Measure all in turn, one round more than is kept.

    The first is ours: it must answer. Of a peer that ends (some do) the rounds before count,
    and the name in the table says how many.
    """
    if not has_wrk():
        print(HOW_TO_GET_WRK, file=sys.stderr)
    for one in contestants:
        one.server.pause()
    living = list(contestants)
    for number in range(rounds + 1):
        for one in list(living):
            one.server.resume()
            try:
                for n in connections:
                    one.measure(n, min(seconds, 1.0) if number == 0 else seconds, keep=number > 0)
            except RuntimeError as error:
                if one is contestants[0]:
                    raise
                print(f"{one.name} is measured no further: {error}", file=sys.stderr)
                living.remove(one)
                one.ended = True
                one.name += f", ended in round {number}"
                continue
            one.server.pause()
    for one in living:
        one.server.resume()


@contextlib.contextmanager
def started(
    peers: Sequence[Peer], folder: Path, rows: np.ndarray, scores: np.ndarray,
    server_core: int, client_core: int,
) -> Iterator[dict[str, Contestant]]:  # fmt: skip
    """The peers that are installed, each checked to give the expected scores, by name.

    Args:
        peers: whom to start.
        folder: with ``model.onnx``.
        rows, scores: what is asked, and what must be answered.
        server_core, client_core: where both run.
    """
    with contextlib.ExitStack() as stack:
        found: dict[str, Contestant] = {}
        for peer in peers:
            if not peer.available:
                print(f"{peer.title} is left out: `make peers` makes it.", file=sys.stderr)
                continue
            server = stack.enter_context(peer.start(folder, server_core))
            load = Load(server.port, peer.requests(rows), core=client_core)
            agreed(peer.title, load, peer.score, scores)
            server.pause()
            found[peer.name] = Contestant(peer.title, server, load)
        yield found


def agreed(
    name: str, load: Load, score: Callable[[dict[str, object]], float], expected: np.ndarray
) -> None:
    """Raise RuntimeError unless a server answers the expected scores."""
    for place in range(0, len(expected), 50):
        told = score(load.ask(place))
        if abs(told - float(expected[place])) > 1e-5:
            raise RuntimeError(f"{name} answers {told}, not {expected[place]}")


def our_score(told: dict[str, object]) -> float:
    """The score in an answer of ours."""
    return float(told["predictions"][0]["score"])  # type: ignore[index]


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    """Of the peers that are installed, and of the client."""
    found = {peer.name: peer.version() for peer in peers if peer.available}
    return {**found, "client": client_name()}


def table(
    work: str, mine: Contestant, peers: dict[str, Contestant], connections: Sequence[int],
    told: dict[str, str], *, times: dict[str, float], best: str = "fastapi",
) -> list[Row]:  # fmt: skip
    """The rows of one comparison.

    Args:
        work: what was done.
        mine: ours.
        peers: the others, by name.
        connections: the numbers of connections; 16 is the one that counts.
        told: versions.
        times: at 16 connections ours must be so many times each named peer.
        best: the peer to show beside ours in the other rows.
    """
    rows = []
    for n in connections:
        for unit, better in UNITS:
            other = peers.get(best)
            row = Row(
                work, f"{n} connections", unit, mine.of(n, unit),
                other.of(n, unit) if other else None, other.name if other else "",
                better=better, versions=told,
            )  # fmt: skip
            rows.append(row)
    for name, peer in peers.items():
        if (16, RATE) not in peer.found:
            continue  # it ended before anything was kept
        ratio = mine.of(16, RATE) / peer.of(16, RATE)
        row = Row(
            f"{work}, against {peer.name}", "16 connections", RATE, mine.of(16, RATE),
            peer.of(16, RATE), peer.name, better="more", versions=told,
        )  # fmt: skip
        if name in times:
            row.goal, row.met = f"≥ {times[name]:g} times", ratio >= times[name]
        rows.append(row)
        row = Row(
            f"{work}, against {peer.name}", "16 connections", CPU, mine.of(16, CPU),
            peer.of(16, CPU), peer.name, versions=told,
        )  # fmt: skip
        rows.append(row)
    rows += [
        errors(work, one, told)
        for one in (mine, *peers.values())
        if one is mine or (one.n_errors and not one.ended)
    ]
    for role, named in (("worker", "our worker alone"), ("log", "our log writer alone")):
        size = "16 connections"
        rows.append(Row(f"{work}, {named}", size, CPU, mine.of(16, role), versions=told))
    return rows


def errors(work: str, one: Contestant, told: dict[str, str]) -> Row:
    """What a server did not answer with 200; it must be nothing."""
    return Row(
        f"{work}, {one.name}: errors", f"{one.n_answers:,} answers", "answers", one.n_errors,
        goal="0", met=one.n_errors == 0, versions=told,
    )  # fmt: skip

"""Runs of rollouts as they are kept: found, leased, changed, and looks thinned with age."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Row, delete, insert, or_, select, update
from sqlalchemy.engine import Connection

from falaj.kernel.errors import NotFound
from falaj.kernel.insertion import insert_if_absent
from falaj.rollouts.model import Look, Rollout
from falaj.rollouts.ports import Underway
from falaj.rollouts.records import KeptLook, Run, Step
from falaj.rollouts.tables import looks, runs, share_changes

LEASE = timedelta(seconds=10)
"""So long nobody else takes a run that was leased or whose lease was renewed last."""
MOST_PLOTTED = 300
_ALL_KEPT = 400
"""So many of the newest looks are kept, all of them; of older ones every second, fourth …"""
_THINNED_EVERY = 100
_CHANGES_KEPT = 1_000
"""Of the shares of a run the newest so many: a judge has taken older ones down long ago."""
_OWN = {name for name in Run.model_fields if name not in ("rollout",)}


@dataclass(frozen=True)
class Leased:
    """A run that this process alone looks after until the lease is over."""

    run: Run
    memory: dict[str, object]
    token: str
    changes: list[tuple[datetime, dict[str, float]]]
    """From when on which shares held, in their order."""

    def underway(self) -> Underway:
        """As the one who measures must know it."""
        return self.run.underway(self.memory, self.changes)


def found(connection: Connection, run_id: str, *, locked: bool = False) -> Run:
    """One run; locked until the transaction ends if asked. Raises NotFound."""
    query = select(runs).where(runs.c.id == run_id)
    row = connection.execute(query.with_for_update() if locked else query).first()
    if row is None:
        raise NotFound(f"There is no run {run_id!r} of a rollout.", hint="`falaj rollouts list`.")
    return _run(row)


def newest(connection: Connection, name: str, *, locked: bool = False) -> Run | None:
    """The newest run of a rollout; None if it never ran."""
    query = select(runs).where(runs.c.name == name)
    query = query.order_by(runs.c.started_at.desc(), runs.c.id.desc()).limit(1)
    row = connection.execute(query.with_for_update() if locked else query).first()
    return None if row is None else _run(row)


def listed(connection: Connection, name: str, *, limit: int = 100) -> list[Run]:
    """The runs of a rollout, the newest first."""
    query = select(runs).where(runs.c.name == name).limit(limit)
    query = query.order_by(runs.c.started_at.desc(), runs.c.id.desc())
    return [_run(row) for row in connection.execute(query)]


def open_on(connection: Connection, endpoint: str) -> Run | None:
    """The run of an endpoint with which something is left to do; None if there is none."""
    row = connection.execute(select(runs).where(runs.c.open_key == endpoint)).first()
    return None if row is None else _run(row)


def open_in(connection: Connection, layer: str) -> list[Run]:
    """The runs of a layer with which something is left to do."""
    query = select(runs).where(runs.c.layer == layer, runs.c.open_key.is_not(None))
    return [_run(row) for row in connection.execute(query)]


def all_open(connection: Connection) -> list[Run]:
    """All runs with which something is left to do."""
    return [
        _run(row) for row in connection.execute(select(runs).where(runs.c.open_key.is_not(None)))
    ]


def begun(connection: Connection, run: Run) -> bool:
    """Keep a new run; False if the endpoint has an open one."""
    values = run.model_dump(include=_OWN)
    values |= {
        "outcome": run.outcome.model_dump(mode="json"),
        "document": run.rollout.model_dump(mode="json"),
        "memory": {},
        "open_key": run.endpoint,
    }
    if not insert_if_absent(connection, runs, values):
        return False
    _keep_shares(connection, run.id, run.revision, run.shares_since, run.shares)
    return True


def due(connection: Connection, now: datetime, *, limit: int = 50) -> list[str]:
    """The ids of runs that something is to be done for and that nobody has a lease on."""
    free = or_(runs.c.leased_until.is_(None), runs.c.leased_until <= now)
    query = select(runs.c.id).where(runs.c.due_at <= now, free).order_by(runs.c.due_at)
    return [str(row.id) for row in connection.execute(query.limit(limit))]


def awaiting(connection: Connection) -> list[Run]:
    """The runs whose winner waits for its promotion."""
    query = select(runs).where(runs.c.open_key.is_not(None), runs.c.step == Step.AWAIT)
    return [_run(row) for row in connection.execute(query)]


def lease(
    connection: Connection, run_id: str, now: datetime, *, early: bool = False
) -> Leased | None:
    """Take a run that is due (or ``early`` one that is open); None if another was faster."""
    query = select(runs).where(runs.c.id == run_id, runs.c.open_key.is_not(None))
    if not early:
        query = query.where(runs.c.due_at <= now)
    free = or_(runs.c.leased_until.is_(None), runs.c.leased_until <= now)
    row = connection.execute(query.where(free).with_for_update()).first()
    if row is None:
        return None
    token = uuid4().hex
    _set(connection, run_id, lease=token, leased_until=now + LEASE)
    return Leased(_run(row), dict(row.memory), token, _changes(connection, run_id))


def renewed(connection: Connection, leased: Leased, now: datetime) -> bool:
    """Let a lease last anew from now on; False if it is lost."""
    return _leased_set(connection, leased, leased_until=now + LEASE)


def held(connection: Connection, leased: Leased) -> Run | None:
    """The leased run, locked, as it was when the lease was taken; None if the lease is lost
    or somebody has changed the run meanwhile, so that nothing may follow from the look."""
    query = select(runs).where(runs.c.id == leased.run.id, runs.c.lease == leased.token)
    row = connection.execute(query.with_for_update()).first()
    if row is None or row.revision != leased.run.revision:
        return None
    return _run(row)


def given_back(
    connection: Connection,
    leased: Leased,
    *,
    due_at: datetime | None,
    **values: Any,
) -> bool:
    """Give a lease back, and set what is to be set; False, and nothing, if it is lost."""
    freed: dict[str, Any] = {"lease": None, "leased_until": None, "due_at": due_at}
    return _leased_set(connection, leased, **freed, **values)


def remembered(
    connection: Connection, leased: Leased, memory: Mapping[str, object], n_looks: int
) -> bool:
    """Keep what a look wants to be remembered, and the lease; False if that is lost."""
    return _leased_set(connection, leased, memory=dict(memory), n_looks=n_looks)


def changed(connection: Connection, run: Run, **values: Any) -> Run:
    """Change the state, stage, shares or step of a locked run; the run as it is then."""
    values["revision"] = run.revision + 1
    if values.get("step") is Step.NOTHING:
        values |= {"open_key": None, "due_at": None}
    _set(connection, run.id, **values)
    after = found(connection, run.id)
    if "shares_since" in values:
        _keep_shares(connection, run.id, after.revision, after.shares_since, after.shares)
    return after


def keep_look(connection: Connection, run: Run, at: datetime, look: Look, **told: Any) -> int:
    """Keep a look as evidence, and thin old ones now and then; returns its place."""
    seq = run.n_looks + 1
    connection.execute(
        insert(looks).values(
            run=run.id,
            seq=seq,
            at=at,
            stage=run.stage,
            shares=run.shares,
            look=look.model_dump(mode="json"),
            lasting=told["decision"] != "wait",
            **told,
        )
    )
    if seq % _THINNED_EVERY == 0:
        _thin(connection, run.id, seq)
    return seq


def kept_looks(connection: Connection, run_id: str, *, most: int = MOST_PLOTTED) -> list[KeptLook]:
    """The looks of a run over its whole time, the oldest first; every n-th, if they are more
    than ``most``, and the last one always."""
    query = select(looks.c.seq).where(looks.c.run == run_id).order_by(looks.c.seq)
    seqs = list(connection.execute(query).scalars())
    step = -(-len(seqs) // most) or 1
    wanted = seqs[::-1][::step]
    rows = connection.execute(
        select(looks).where(looks.c.run == run_id, looks.c.seq.in_(wanted)).order_by(looks.c.seq)
    )
    return [_look(row) for row in rows]


def latest_look(connection: Connection, run_id: str) -> KeptLook | None:
    """The newest look of a run."""
    query = select(looks).where(looks.c.run == run_id).order_by(looks.c.seq.desc()).limit(1)
    row = connection.execute(query).first()
    return None if row is None else _look(row)


def surplus(seqs: Sequence[int], newest_seq: int) -> list[int]:
    """Those of the places of looks that are let go: of looks older than the newest 400, every
    second stays, of those older than 800 every fourth, and so on."""
    gone = []
    for seq in seqs:
        age = newest_seq - seq
        stride = 1 << (age // _ALL_KEPT).bit_length()
        if seq % stride:
            gone.append(seq)
    return gone


def _thin(connection: Connection, run_id: str, newest_seq: int) -> None:
    query = select(looks.c.seq).where(looks.c.run == run_id, looks.c.lasting.is_(False))
    gone = surplus(list(connection.execute(query).scalars()), newest_seq)
    for begin in range(0, len(gone), 500):
        part = gone[begin : begin + 500]
        connection.execute(delete(looks).where(looks.c.run == run_id, looks.c.seq.in_(part)))


def _keep_shares(
    connection: Connection, run_id: str, revision: int, at: datetime, shares: Mapping[str, float]
) -> None:
    """Keep from when on which shares hold: looks may come later than the next change."""
    table = share_changes
    values = {"run": run_id, "revision": revision, "at": at, "shares": dict(shares)}
    connection.execute(insert(table).values(values))
    old = revision - _CHANGES_KEPT
    connection.execute(delete(table).where(table.c.run == run_id, table.c.revision <= old))


def _changes(connection: Connection, run_id: str) -> list[tuple[datetime, dict[str, float]]]:
    query = select(share_changes).where(share_changes.c.run == run_id)
    rows = connection.execute(query.order_by(share_changes.c.revision))
    return [(row.at, dict(row.shares)) for row in rows]


def _set(connection: Connection, run_id: str, **values: Any) -> None:
    connection.execute(update(runs).where(runs.c.id == run_id).values(**_written(values)))


def _leased_set(connection: Connection, leased: Leased, **values: Any) -> bool:
    query = update(runs).where(runs.c.id == leased.run.id, runs.c.lease == leased.token)
    return connection.execute(query.values(**_written(values))).rowcount == 1


def _written(values: Mapping[str, Any]) -> dict[str, Any]:
    outcome = values.get("outcome")
    told = dict(values)
    if outcome is not None and not isinstance(outcome, dict):
        told["outcome"] = outcome.model_dump(mode="json")
    return told


def _run(row: Row[Any]) -> Run:
    values = {name: getattr(row, name) for name in _OWN}
    return Run.model_validate(values | {"rollout": Rollout.model_validate(row.document)})


def _look(row: Row[Any]) -> KeptLook:
    values = {name: getattr(row, name) for name in KeptLook.model_fields}
    return KeptLook.model_validate(values)

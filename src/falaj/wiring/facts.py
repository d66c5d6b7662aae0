"""What a trace tells about each kind of asset, beyond what the catalogue keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.wiring.assembly import Premises

Facts = Callable[["Connection", str], Mapping[str, Any]]


def facts(made: Premises) -> dict[str, Facts]:
    """Facts by kind of asset, found by its key."""

    def of_change(connection: Connection, key: str) -> Mapping[str, Any]:
        change = made.changes.get(connection, key)
        return {
            "title": change.title,
            "state": str(change.state),
            "requested_by": change.requested_by,
            "decided_by": change.decided_by,
            "reason": change.reason,
        }

    def of_run(connection: Connection, key: str) -> Mapping[str, Any]:
        run = made.runs.get(connection, key)
        return {
            "experiment": run.experiment,
            "snapshot": run.snapshot,
            "code": run.code.commit or run.code.content_hash if run.code else None,
            "metrics": run.metrics,
        }

    def of_training_set(connection: Connection, key: str) -> Mapping[str, Any]:
        found = made.training_sets.get(connection, key)
        return {"snapshot": found.snapshot, "rows": found.n_rows, "content": found.content_hash}

    return {"change": of_change, "run": of_run, "training_set": of_training_set}

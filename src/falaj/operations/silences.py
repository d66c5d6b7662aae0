"""Silences: alerts that nobody is told of for a time, by whom and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.operations.alerting_model import Silence
from falaj.operations.alerting_tables import silences
from falaj.operations.model import MOST_LISTED, told
from falaj.operations.routing import Matcher

LONGEST = timedelta(days=90)
"""So long may a silence be: one without end is a rule, and rules stand in the definitions."""


class Silences:
    """The silences of a platform.

    Args:
        catalog: where each silence is an asset.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def add(
        self,
        call: Call,
        matchers: Sequence[Matcher],
        *,
        starts_at: datetime | None,
        ends_at: datetime,
        reason: str,
    ) -> Silence:
        """Keep the alerts that fit all matchers quiet.

        Args:
            call: of the one who wants quiet.
            matchers: over the labels of alerts; at least one that does not fit the empty text.
            starts_at: now, if None.
            ends_at: when they are told again.
            reason: why.

        Raises:
            InvalidInput: no matcher, one that fits everything, an end that is past, before the
                start, or more than 90 days after it; no reason.
        """
        begins = call.now if starts_at is None else starts_at
        if not matchers or all(matcher.fits({}) for matcher in matchers):
            raise InvalidInput(
                "These matchers would silence every alert.",
                hint="Name a label and its value: alertname=drift, subject=endpoint:late.",
            )
        if ends_at <= max(begins, call.now) or ends_at - begins > LONGEST:
            raise InvalidInput(
                f"The silence would last from {begins.isoformat()} to {ends_at.isoformat()}.",
                hint=f"It ends in the future, and at most {LONGEST.days} days after its start.",
            )
        silence_id = new_id("silence")
        call.connection.execute(
            insert(silences).values(
                id=silence_id,
                matchers=[matcher.model_dump() for matcher in matchers],
                starts_at=begins,
                ends_at=ends_at,
                reason=told("reason", reason),
                created_by=call.principal.id,
                created_at=call.now,
            )
        )
        self._catalog.record(
            call, AssetRef("silence", silence_id), owner=call.principal.id, description=reason
        )
        call.note(silence=silence_id)
        silence = self.get(call.connection, silence_id)
        call.emit("silence.added", id=silence_id, until=ends_at.isoformat(), reason=silence.reason)
        return silence

    def expire(self, call: Call, silence_id: str) -> Silence:
        """End a silence now; raises NotFound, or Conflict if it is over."""
        silence = self.get(call.connection, silence_id)
        if silence.ends_at <= call.now:
            raise Conflict(f"The silence {silence_id} ended at {silence.ends_at.isoformat()}.")
        call.connection.execute(
            update(silences)
            .where(silences.c.id == silence_id)
            .values(
                ends_at=call.now,
                starts_at=min(silence.starts_at, call.now),
                expired_by=call.principal.id,
            )
        )
        call.emit("silence.expired", id=silence_id)
        return self.get(call.connection, silence_id)

    def get(self, connection: Connection, silence_id: str) -> Silence:
        """One silence; raises NotFound."""
        row = connection.execute(select(silences).where(silences.c.id == silence_id)).first()
        if row is None:
            raise NotFound(
                f"There is no silence {silence_id!r}.", hint="`falaj silences list` shows all."
            )
        return _silence(row)

    def listed(self, connection: Connection, *, since: datetime | None = None) -> list[Silence]:
        """The silences that end after an instant (all, if None), the last to end first."""
        query = select(silences).order_by(silences.c.ends_at.desc(), silences.c.id)
        if since is not None:
            query = query.where(silences.c.ends_at > since)
        return [_silence(row) for row in connection.execute(query.limit(MOST_LISTED))]


def _silence(row: Row[Any]) -> Silence:
    return Silence.model_validate({name: getattr(row, name) for name in Silence.model_fields})

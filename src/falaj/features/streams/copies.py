"""The events of one person in the event log, found to be counted."""

from __future__ import annotations

from falaj.features.streams.sealedrows import SEALED, rows_of
from falaj.features.streams.streams import Streams
from falaj.kernel.errors import FalajError
from falaj.trust.subjectciphers import PSEUDONYM
from falaj.trust.subjects import SubjectKey


class LoggedEvents:
    """What the event log holds of a person; fulfils ``SubjectCopies``.

    Args:
        streams: whose log it is.
    """

    name = "event log"

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def count(self, key: SubjectKey) -> dict[str, int]:
        """How many events of the person each stream's log still holds; reads all of it."""
        pseudonym = PSEUDONYM.pack(key.pseudonym)
        found: dict[str, int] = {}
        for table in self._streams.tables():
            plan, log = self._streams.plans.of(table), self._streams.log
            for number in range(self._streams.n_partitions(table)):
                position, end = log.begin(plan.topic, number), log.end(plan.topic, number)
                while position < end:
                    records = log.read(plan.topic, number, position)
                    if not records:
                        break
                    position = records[-1].offset + 1
                    n_rows = sum(_n_rows(one.payload, pseudonym)
                                 for one in records if one.media == SEALED)  # fmt: skip
                    if n_rows:
                        found[table] = found.get(table, 0) + n_rows
        return found

    def forget(self, key: SubjectKey) -> int:
        """Nothing: a log is not rewritten. What is in it nobody can read, and it goes with its
        segment (or by the retention of Kafka) once the lake holds what stands beside it."""
        return 0


def _n_rows(payload: bytes, pseudonym: bytes) -> int:
    try:
        return rows_of(payload, pseudonym)
    except FalajError:  # no sealed rows at all, which the stream itself sets aside
        return 0

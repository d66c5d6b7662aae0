"""The distinct questions that policies were asked, kept for thirty days, and asked again.

What a change of policies would change is seen best on what was really asked. Each process
writes the new ones of its policy's memory once a minute, so that the data plane's questions are
there too, and a repeated one costs nothing. A question holds who (with the roles of then), what,
on which asset with which attributes; of the context it holds the interface and the age of the
factor only where a policy in force asked for them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.clock import Clock
from falaj.kernel.database import Database
from falaj.kernel.errors import FalajError
from falaj.kernel.insertion import insert_if_absent
from falaj.kernel.ports import Resource
from falaj.kernel.telemetry import logger
from falaj.trust.policy import CedarPolicy, Question
from falaj.trust.policy_model import KEPT_DAYS, Comparison, Difference
from falaj.trust.policy_tables import policy_questions

EVERY_SECONDS = 60.0
_MOST_A_ROUND = 2_000
"""More new questions than this in a round are not all kept: a scan must not fill the disk."""
_MOST_SHOWN = 200
_log = logger(__name__)


def keep(connection: Connection, questions: Iterable[Question], now: datetime) -> None:
    """Keep questions of today that are new, and let go of those older than thirty days."""
    today = _day(now)
    for question in questions:
        text = json.dumps(question, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).digest()[:16]
        row = {"day": today, "digest": digest, "question": text}
        insert_if_absent(connection, policy_questions, row)
    connection.execute(delete(policy_questions).where(policy_questions.c.day < today - KEPT_DAYS))


def compared(
    connection: Connection,
    before: CedarPolicy,
    after: CedarPolicy,
    *,
    now: datetime,
    days: int = KEPT_DAYS,
) -> Comparison:
    """Ask both policies each distinct question of the last days.

    Args:
        before, after: the policies in force, and those that might be.
        days: 1 to 30.
    """
    table = policy_questions.c
    query = select(table.question).where(table.day > _day(now) - days).distinct()
    n, differences = 0, []
    for (text,) in connection.execute(query):
        n += 1
        caller, action, resource, stepped_up = _asked(json.loads(text), now)
        old = before.decide(caller, action, resource, stepped_up=stepped_up)
        new = after.decide(caller, action, resource, stepped_up=stepped_up)
        if old.allowed is not new.allowed:
            differences.append(
                Difference(
                    who=caller.principal.id,
                    roles=caller.principal.roles,
                    action=action,
                    what=str(resource.ref),
                    before=old.allowed,
                    after=new.allowed,
                    reasons=new.reasons,
                )
            )
    differences.sort(key=lambda one: (one.action, one.what, one.who))
    return Comparison(
        days=days,
        n_questions=n,
        n_differences=len(differences),
        differences=differences[:_MOST_SHOWN],
    )


class Questions:
    """Writes the new questions of one process's policy down, on a thread of its own.

    Args:
        policy: gives the questions that were new to it since it was last asked for them.
        database: where they are kept.
        clock: tells the day.
        seconds: how often.
    """

    def __init__(
        self,
        policy: CedarPolicy,
        database: Database,
        clock: Clock,
        *,
        seconds: float = EVERY_SECONDS,
        start: Callable[[threading.Thread], None] = threading.Thread.start,
    ) -> None:
        self._policy = policy
        self._database = database
        self._clock = clock
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="falaj-questions", daemon=True)
        start(self._thread)

    def close(self) -> None:
        """Write what is new, and end the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def flush(self) -> None:
        """Write what is new."""
        questions = self._policy.new_questions()
        if not questions:
            return
        if len(questions) > _MOST_A_ROUND:
            _log.warning("not all questions to policies are kept", asked=len(questions))
            questions = questions[:_MOST_A_ROUND]
        with self._database.transaction() as connection:
            keep(connection, questions, self._clock.now())

    def _run(self) -> None:
        while not self._ended.is_set():
            self._ended.wait(self._seconds)
            try:
                self.flush()
            except FalajError as error:
                _log.error("questions to policies are not kept", error=str(error))


def _day(now: datetime) -> int:
    return int(now.timestamp() // 86_400)


def _asked(question: list[Any], now: datetime) -> tuple[Caller, str, Resource, bool]:
    principal, roles, action, kind, key, attributes, stepped_up, purpose, age, via = question
    who = Principal(principal, PrincipalKind(principal.partition(":")[0]), tuple(roles))
    presented = None if age is None else now - timedelta(seconds=age)
    named: Mapping[str, str] = dict(attributes)
    return (
        Caller(who, mfa_at=presented, purpose=purpose, via=via or "http"),
        action,
        Resource(AssetRef(kind, key), named),
        stepped_up,
    )

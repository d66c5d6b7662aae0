"""The engine: looks at the rollouts that are due, and carries out what follows.

A run is leased before it is looked at, so that several worker processes never act on it twice.
It is measured outside of any transaction; then one short transaction does what follows, if the
lease still holds and nobody has changed the run meanwhile. A process that is killed leaves a
lease behind that is soon over; the next one goes on where the last transaction ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import FalajError
from falaj.kernel.telemetry import logger
from falaj.operations.model import ChangeState
from falaj.rollouts import runs
from falaj.rollouts.concluding import Decision, decided
from falaj.rollouts.leasing import Renewed
from falaj.rollouts.records import SYSTEM, Run, Step

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.rollouts.following import Following
    from falaj.rollouts.model import Look
    from falaj.rollouts.ports import Judge, Samples, Traffic
    from falaj.rollouts.runs import Leased

EVERY_SECONDS = 0.5
_AT_ONCE = 4
"""Looks side by side: a slow metric of one endpoint must not delay the rollback of another."""
_TOLD_AFTER = 3
"""So many failures in a row, then people are told."""
_LONGEST_DELAY = timedelta(seconds=60)
_log = logger(__name__)


@dataclass(frozen=True)
class _Seen:
    """What one look saw, and what follows from it."""

    look: Look
    memory: Mapping[str, object]
    decision: Decision
    at: datetime


class Engine:
    """Looks after every run that is due.

    Args:
        calls: opens the transactions, and tells the time.
        judge: measures.
        traffic: tells what serves.
        following: carries out what follows.
        samples: tells requests that a challenger answered, as evidence.
    """

    def __init__(
        self, calls: Calls, judge: Judge, traffic: Traffic, following: Following, samples: Samples
    ) -> None:
        self._calls = calls
        self._judge = judge
        self._traffic = traffic
        self._following = following
        self._samples = samples
        self._busy: dict[str, Future[None]] = {}

    def run_until(self, stopped: threading.Event) -> None:
        """Look after runs, several side by side, until ``stopped`` is set."""
        with ThreadPoolExecutor(_AT_ONCE, "falaj-rollouts") as pool:
            while not stopped.wait(EVERY_SECONDS):
                try:
                    due = self._due()
                except FalajError as error:
                    _log.warning("rollouts are not looked at; tried again", error=str(error))
                    continue
                self._busy = {name: one for name, one in self._busy.items() if not one.done()}
                for run_id, early in due.items():
                    if run_id not in self._busy:
                        self._busy[run_id] = pool.submit(self.look_after, run_id, early=early)

    def run_once(self) -> int:
        """Look after each run that is due, one after the other; returns how many were."""
        due = self._due()
        for run_id, early in due.items():
            self.look_after(run_id, early=early)
        return len(due)

    def look_after(self, run_id: str, *, early: bool = False) -> None:
        """Do what is due for a run until nothing is due at once, unless another process does.

        ``early``: something has happened to it before the time of its next look.
        """
        try:
            while self._one(run_id, early=early):
                pass
        except Exception:  # noqa: BLE001
            # Whatever it is: other runs go on, and this one is taken again after its lease.
            _log.exception("a rollout was not looked after; it is tried again", run=run_id)

    def _due(self) -> dict[str, bool]:
        """The runs that are due; True for those of which a promotion was decided."""
        with self._calls.database.reading() as connection:
            due = dict.fromkeys(runs.due(connection, self._calls.now()), False)
            for run in runs.awaiting(connection):
                promotion = self._following.promotion_of(connection, run)
                if promotion is not None and promotion.state is not ChangeState.WAITING:
                    due[run.id] = True
        return due

    def _one(self, run_id: str, *, early: bool) -> bool:
        """One look or one step; True if the next is due at once."""
        with self._calls.database.transaction() as connection:
            leased = runs.lease(connection, run_id, self._calls.now(), early=early)
        if leased is None:
            return False
        try:
            return self._looked(leased) if leased.run.step.looks else self._stepped(leased)
        except Exception as error:  # noqa: BLE001
            # Whatever it is (a metric may be anybody's code): people are told if it stays.
            if not isinstance(error, FalajError):
                _log.exception("a rollout was not looked after", run=run_id)
            self._failed(leased, error)
            return False

    # -- looks ----------------------------------------------------------------------

    def _looked(self, leased: Leased) -> bool:
        run = leased.run
        with self._calls.database.reading() as connection:
            serving = self._traffic.serving(connection, run.endpoint)
            promotion = self._following.promotion_of(connection, run)
        if serving != run.release:
            return self._acted(
                leased, "overtaken", lambda call, held: self._following.overtaken(
                    call, held, serving
                )
            )  # fmt: skip
        if promotion is not None and promotion.state is not ChangeState.WAITING:
            return self._acted(
                leased, "settle", lambda call, held: self._following.settled(call, held, promotion)
            )
        seen = self._measured(leased)
        if seen.decision.what != "wait":
            return self._followed(leased, seen)
        unmeasured = seen.look.unmeasured
        if unmeasured and run.failures + 1 == _TOLD_AFTER:
            self._tell(run, f"not all of it is measured: {unmeasured}")
        with self._calls.database.transaction() as connection:
            held = runs.held(connection, leased)
            if held is not None:
                self._kept(connection, held, seen)
            kept = runs.given_back(
                connection,
                leased,
                due_at=self._calls.now() + run.rollout.look_every,
                memory=dict(seen.memory),
                n_looks=run.n_looks + 1,
                failures=run.failures + 1 if unmeasured else 0,
            )
        self._forgotten_unless(kept, run)
        return False

    def _watched(self, leased: Leased) -> bool:
        """Look at guardrails before a step is tried again while challengers meet units.

        True if it was rolled back. A look that fails hinders no step: who approved a winner
        waits for it.
        """
        try:
            seen = self._measured(leased)
        except Exception:  # noqa: BLE001
            # Whatever it is (a metric may be anybody's code), as in ``_one``.
            _log.exception("the guardrails of a winner were not looked at", run=leased.run.id)
            return False
        if seen.decision.what != "wait":
            self._followed(leased, seen)
            return True
        with self._calls.database.transaction() as connection:
            held = runs.held(connection, leased)
            if held is not None:
                self._kept(connection, held, seen)
            kept = runs.remembered(connection, leased, seen.memory, leased.run.n_looks + 1)
        self._forgotten_unless(kept, leased.run)
        return False

    def _measured(self, leased: Leased) -> _Seen:
        """A look, outside of any transaction, for as long as it takes."""
        now = self._calls.now()
        with Renewed(self._calls, leased):
            look, memory = self._judge.look(leased.underway(), now)
        return _Seen(look, memory, decided(leased.run, look, now), now)

    def _followed(self, leased: Leased, seen: _Seen) -> bool:
        """Do what follows from a look; True if a step is left."""
        run, decision = leased.run, seen.decision
        if decision.what == "roll_back":
            # The record may have to wait for another transaction; requests need not.
            self._traffic.halt(run.endpoint)

        def act(call: Call, held: Run) -> Run:
            self._kept(call.connection, held, seen)
            return self._following.act(call, held, decision)

        return self._acted(leased, decision.what, act, memory=seen.memory)

    def _tell(self, run: Run, why: str) -> None:
        with self._calls.opened(
            "rollouts.hindered", SYSTEM, resource=f"rollout:{run.name}"
        ) as call:
            self._following.hindered(call, run, why)

    @staticmethod
    def _kept(connection: Any, run: Run, seen: _Seen) -> None:
        what, why = seen.decision.what, seen.decision.why
        runs.keep_look(connection, run, seen.at, seen.look, decision=what, why=why)

    def _forgotten_unless(self, kept: bool, run: Run) -> None:
        """What a look has said must not be told again if its memory was lost with the lease:
        figures without the error that they have spent would spend it twice."""
        if not kept:
            self._judge.forget(run.id)

    # -- acts -----------------------------------------------------------------------

    def _acted(
        self,
        leased: Leased,
        what: str,
        act: Callable[[Call, Run], Run],
        *,
        memory: Mapping[str, object] | None = None,
    ) -> bool:
        """Do one act in one transaction, if the run is still ours; True if a step is left."""
        run = leased.run
        remembered = {} if memory is None else {"memory": dict(memory)}
        told: dict[str, Any] = {"failures": 0, **remembered}
        if memory is not None:
            told["n_looks"] = run.n_looks + 1
        with self._calls.opened(f"rollouts.{what}", SYSTEM, resource=f"rollout:{run.name}") as call:
            held = runs.held(call.connection, leased)
            if held is None:
                _log.info("a rollout changed while it was looked at", run=run.id, what=what)
                # Nothing follows from the look, but it has spent its part of the error.
                kept = runs.given_back(call.connection, leased, due_at=call.now, **remembered)
                self._forgotten_unless(kept, run)
                return False
            after = act(call, held)
            due_at = None
            if after.is_open:
                due_at = call.now + after.rollout.look_every if after.step.looks else call.now
            runs.given_back(call.connection, leased, due_at=due_at, **told)
        if not after.is_open:
            self._judge.forget(run.id)
        return after.is_open and not after.step.looks

    def _stepped(self, leased: Leased) -> bool:
        run = leased.run
        follow = self._following
        if run.step is Step.RECORD:
            with Renewed(self._calls, leased):
                samples = self._samples_of(run)
            return self._acted(
                leased, "record", lambda call, held: follow.record(call, held, samples)
            )
        if run.step in (Step.RELEASE, Step.PROMOTE, Step.KEEP):
            with self._calls.database.reading() as connection:
                serving = self._traffic.serving(connection, run.endpoint)
            if serving != run.release:
                return self._acted(
                    leased, "overtaken", lambda call, held: follow.overtaken(call, held, serving)
                )
        if run.step.divides and run.failures and self._watched(leased):
            return True
        steps: dict[Step, Callable[[Call, Run], Run]] = {
            Step.QUARANTINE: follow.quarantine,
            Step.RELEASE: follow.release,
            Step.PROMOTE: follow.promote,
            Step.KEEP: follow.keep,
        }
        return self._acted(leased, str(run.step), steps[run.step])

    def _samples_of(self, run: Run) -> dict[str, Any]:
        """Requests as evidence; why there are none, where they cannot be read."""
        told: dict[str, Any] = {}
        for challenger in run.outcome.harmful:
            try:
                told[challenger] = self._samples.request_ids(run, challenger)
            except FalajError as error:
                told[challenger] = f"They could not be read: {error}"
        return told

    def _failed(self, leased: Leased, error: Exception) -> None:
        """Try again, ever more seldom up to a minute, and tell people after some failures."""
        run, failures = leased.run, leased.run.failures + 1
        told = str(error) if isinstance(error, FalajError) else repr(error)
        _log.warning("rollout not looked after; tried again", run=run.id, error=told)
        delay = min(timedelta(seconds=2 ** min(failures, 6)), _LONGEST_DELAY)
        if run.step.divides:
            delay = min(delay, run.rollout.look_every)
        with self._calls.opened(
            "rollouts.hindered", SYSTEM, resource=f"rollout:{run.name}"
        ) as call:
            runs.given_back(
                call.connection,
                leased,
                due_at=call.now + delay,
                failures=failures,
            )
            if failures == _TOLD_AFTER:
                self._following.hindered(call, run, told)

"""The one door: every call is checked, authorised, done and audited in one transaction.

The order of things, for every action and every caller:

1. check the arguments against the signature;
2. load the attributes of the asset that they name;
3. ask the policy; an action that is sensitive also needs a fresh second factor;
4. do the work, write the audit record and the events, in one transaction;
5. answer.

A refusal and a failure leave an audit record too, in a transaction of their own, after
the work has been rolled back. When the record itself cannot be written, nothing happens.
Calls of many threads share commits (``falaj.kernel.commits``).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from sqlalchemy.engine import Connection

from falaj.kernel.actions import PLATFORM, Action, Service
from falaj.kernel.call import AssetRef, Call, Caller, acting
from falaj.kernel.clock import Clock, monotonic
from falaj.kernel.commits import AuditFailed, Commits
from falaj.kernel.database import Database
from falaj.kernel.errors import (
    Conflict,
    FalajError,
    Forbidden,
    InvalidInput,
    NotFound,
    StepUpRequired,
)
from falaj.kernel.idempotency import Answers, KeptAnswer
from falaj.kernel.ids import new_id
from falaj.kernel.ports import (
    AuditEntry,
    AuditLog,
    Decision,
    Door,
    Events,
    Outcome,
    Policy,
    Resource,
    Resources,
)
from falaj.kernel.space import Space
from falaj.kernel.telemetry import Telemetry

S = TypeVar("S", bound=Service)
T = TypeVar("T")


class Services:
    """The services of a platform by name, and their actions by name.

    Args:
        services: made already.
        makers: makes each of the others when its first action is called, once. What only
            some services need is opened by the processes that really use it.

    Safe from many threads. A service that cannot be made is tried again at the next call.
    """

    def __init__(
        self,
        services: Iterable[Service] = (),
        *,
        makers: Mapping[type[Service], Callable[[], Service]] | None = None,
    ) -> None:
        self._services = {service.name: service for service in services}
        later = dict(makers or {})
        self._makers = {kind.name: maker for kind, maker in later.items()}
        self._making = threading.Lock()
        kinds = [*(type(service) for service in self._services.values()), *later]
        self.actions: dict[str, Action] = {
            action.name: action for kind in kinds for action in kind.actions()
        }

    def named(self, name: str) -> Service:
        """The service of that name; whatever its maker raises."""
        found = self._services.get(name)
        if found is None:
            with self._making:
                found = self._services.get(name)
                if found is None:
                    found = self._services[name] = self._makers[name]()
        return found


class Backend:
    """The shared machinery of a local door: one for each process, many callers."""

    def __init__(
        self,
        *,
        services: Services,
        database: Database,
        policy: Policy,
        audit: AuditLog,
        resources: Resources,
        events: Events,
        clock: Clock,
        telemetry: Telemetry,
        space: Space | None = None,
    ) -> None:
        self.space = space
        self.services = services
        self.database = database
        self.policy = policy
        self.audit = audit
        self.resources = resources
        self.events = events
        self.clock = clock
        self.telemetry = telemetry
        self.answers = Answers()
        self.commits = Commits(database, lambda: self.audit)
        self.pace = Pace()


class Pace:
    """How long each action takes here: which of them may share a commit with others.

    An action is quick when it lately took less than 5 ms; one that was never done here is
    not. So nobody's answer waits for a load that happened to stand in the same queue.
    """

    QUICK_SECONDS = 0.005

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def quick(self, action: str) -> bool:
        """True if it may share a commit."""
        return self._seconds.get(action, 1.0) < self.QUICK_SECONDS

    def took(self, action: str, seconds: float) -> None:
        """Take one more duration in; a slow one is forgotten over the next dozen."""
        known = self._seconds.get(action, seconds)
        self._seconds[action] = known + 0.2 * (seconds - known)


class LocalDoor:
    """Serves the calls of one caller in this process."""

    def __init__(self, backend: Backend, caller: Caller) -> None:
        self._backend = backend
        self.caller = caller

    def with_purpose(self, purpose: str | None) -> LocalDoor:
        """A door for the same caller, who states a purpose."""
        return self.as_(replace(self.caller, purpose=purpose or self.caller.purpose))

    def as_(self, caller: Caller) -> LocalDoor:
        """A door of the same platform for another caller (who must be authenticated)."""
        return LocalDoor(self._backend, caller)

    def call(
        self,
        action: Action,
        arguments: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        parent: Call | None = None,
    ) -> Any:
        """Serve one call.

        Args:
            action: which one.
            arguments: by name; checked and converted here.
            idempotency_key: a repeat with the same key returns the first answer.
            parent: the call inside whose transaction this one runs, if any.

        Raises:
            InvalidInput: the arguments do not fit the signature.
            Forbidden, NotFound, StepUpRequired: the policy says no.
            FalajError: whatever the action itself raises.
        """
        started = monotonic()
        outcome = Outcome.FAILED
        try:
            with self._backend.telemetry.span(action.name, principal=self.caller.principal.id):
                result = self._served(action, arguments, idempotency_key, parent)
            outcome = Outcome.DONE
            return result
        except (Forbidden, NotFound, StepUpRequired):
            outcome = Outcome.REFUSED
            raise
        finally:
            self._backend.telemetry.action(action.name, outcome, monotonic() - started)

    def ask(self, action: Action, arguments: Mapping[str, Any]) -> None:
        """Return if a call would be let in as things stand; do nothing of it.

        For what takes long before it can be a call, as a body of which much is still to come:
        the call that follows is decided anew. A refusal is recorded as that of a call.

        Raises:
            InvalidInput, Forbidden, NotFound, StepUpRequired, LimitExceeded: as ``call`` does.
        """
        call_id = new_id("call")
        try:
            checked = action.checked(arguments)
        except InvalidInput as error:
            self._record_alone(call_id, action, AssetRef(action.on, "?"), {}, error, None)
            raise
        ref = action.resource(checked)
        if action.mutates and self._backend.space is not None:
            self._backend.space.demand(action.name)
        resource = Resource(ref)
        if ref.kind != PLATFORM:
            with self._backend.database.reading() as connection:
                resource = self._backend.resources.load(connection, ref)
        try:
            self._decided(action, resource, self._backend.clock.now())
            if ref.kind != PLATFORM and not resource.exists:
                raise _unseen(resource)
        except _Refusal as refusal:
            why, decision = refusal.error, refusal.decision
            self._record_alone(call_id, action, ref, checked, why, None, decision)
            raise why from None
        except NotFound as error:
            self._record_alone(call_id, action, ref, checked, error, None)
            raise

    def _served(
        self,
        action: Action,
        arguments: Mapping[str, Any],
        idempotency_key: str | None,
        parent: Call | None,
    ) -> Any:
        call_id = new_id("call")
        try:
            checked = action.checked(arguments)
        except InvalidInput as error:
            self._record_alone(call_id, action, AssetRef(action.on, "?"), {}, error, parent)
            raise
        ref = action.resource(checked)
        try:
            if parent is not None:
                return self._worked(
                    call_id, action, ref, checked, parent.connection, parent.records, parent, None
                )

            if action.mutates and self._backend.space is not None:
                self._backend.space.demand(action.name)
            read = None
            if action.reads_first:
                read = self._read_first(call_id, action, ref, checked, idempotency_key)

            def work(connection: Connection, records: list[AuditEntry]) -> Any:
                started = monotonic()
                try:
                    return self._worked(
                        call_id, action, ref, checked, connection, records, None,
                        idempotency_key, read,
                    )  # fmt: skip
                finally:
                    self._backend.pace.took(action.name, monotonic() - started)

            return self._backend.commits.do(work, joins=self._backend.pace.quick(action.name))
        except _Refusal as refusal:
            self._record_alone(
                call_id, action, ref, checked, refusal.error, parent, refusal.decision
            )
            raise refusal.error from None
        except AuditFailed as failure:
            raise failure.error from failure.__cause__
        except Exception as error:
            self._record_alone(call_id, action, ref, checked, error, parent)
            raise

    def _read_first(
        self,
        call_id: str,
        action: Action,
        ref: AssetRef,
        checked: dict[str, Any],
        idempotency_key: str | None,
    ) -> tuple[Call, Any] | None:
        """Do an action up to what it writes, which waits in its call; None if it was done before.

        Whether it may be done is decided here and, as things stand then, when it writes.
        """
        backend = self._backend
        with backend.database.reading() as connection:
            resource = (
                backend.resources.load(connection, ref) if ref.kind != PLATFORM else Resource(ref)
            )
            now = backend.clock.now()
            self._decided(action, resource, now)
            if idempotency_key:
                fingerprint = _fingerprint(action, checked)
                if self._kept(connection, idempotency_key, fingerprint) is not None:
                    return None
            call = Call(self.caller, action.name, now, connection, id=call_id, waiting=[])
            return call, self._function(action, call, checked, resource)

    def _worked(
        self,
        call_id: str,
        action: Action,
        ref: AssetRef,
        checked: dict[str, Any],
        connection: Connection,
        records: list[AuditEntry],
        parent: Call | None,
        idempotency_key: str | None,
        read: tuple[Call, Any] | None = None,
    ) -> Any:
        backend = self._backend
        resource = (
            backend.resources.load(connection, ref) if ref.kind != PLATFORM else Resource(ref)
        )
        now = backend.clock.now()
        decision = self._decided(action, resource, now)
        fingerprint = _fingerprint(action, checked) if idempotency_key else ""
        if idempotency_key:
            kept = self._kept(connection, idempotency_key, fingerprint)
            if kept is not None:
                notes = {"repeats": kept.call_id}
                records.append(
                    self._done(call_id, action, ref, checked, decision, now, parent, notes)
                )
                return action.result.validate_json(kept.answer)
        if read is not None:
            call, result = read
            with acting(self.caller.principal.id):
                call.begin_writing(connection, records, now)
        else:
            call = Call(
                self.caller, action.name, now, connection,
                id=call_id, parent=parent.id if parent else None, records=records,
            )  # fmt: skip
            result = self._function(action, call, checked, resource)
        if idempotency_key and action.mutates:
            backend.answers.keep(
                connection,
                principal=self.caller.principal.id,
                key=idempotency_key,
                call_id=call_id,
                fingerprint=fingerprint,
                answer=action.result.dump_json(result).decode(),
                at=now,
            )
        if parent is None:
            backend.events.append(connection, call.events)
        else:  # kept with the parent's own, at the end: see Outbox.append
            parent.events.extend(call.events)
        records.append(self._done(call_id, action, ref, checked, decision, now, parent, call.notes))
        return result

    def _kept(self, connection: Connection, key: str, fingerprint: str) -> KeptAnswer | None:
        """The answer that was given under a key; raises Conflict if another call used it."""
        kept = self._backend.answers.find(connection, self.caller.principal.id, key)
        if kept is not None and kept.fingerprint != fingerprint:
            raise Conflict(
                f"The idempotency key {key!r} was used for another call.",
                hint="Use a new key for a new call.",
            )
        return kept

    def _decided(self, action: Action, resource: Resource, now: Any) -> Decision:
        stepped_up = self.caller.stepped_up(now)
        policy = self._backend.policy
        decision = policy.decide(self.caller, action.name, resource, stepped_up=stepped_up)
        if not decision.allowed:
            if (
                not stepped_up
                and policy.decide(self.caller, action.name, resource, stepped_up=True).allowed
            ):
                raise _Refusal(_step_up_needed(action), decision)
            raise _Refusal(_forbidden(action, resource, self._may_see(resource)), decision)
        if action.step_up and not stepped_up:
            raise _Refusal(_step_up_needed(action), decision)
        return decision

    def _function(
        self,
        action: Action,
        call: Call,
        checked: Mapping[str, Any],
        resource: Resource,
    ) -> Any:
        """Do the action itself; what is missing is told in the words of what is hidden.

        Only to a caller from whom a thing of that kind could be hidden: to others the action's
        own words say more.
        """
        service = self._backend.services.named(action.service).bound(call)
        try:
            with acting(self.caller.principal.id):
                return action.function(service, **checked)
        except NotFound as error:
            if type(error) is not NotFound or resource.exists or resource.ref.kind == PLATFORM:
                raise
            hidden = Resource(resource.ref, {"classification": "sensitive"})
            decide, fresh = self._backend.policy.decide, self.caller.stepped_up(call.now)
            if decide(self.caller, action.name, hidden, stepped_up=fresh).allowed:
                raise
            if self._may_see(hidden):
                raise
            raise _unseen(resource) from error

    def _may_see(self, resource: Resource) -> bool:
        if resource.ref.kind == PLATFORM:
            return True
        see = self._backend.policy.decide(self.caller, "assets.get", resource, stepped_up=False)
        return see.allowed

    def _done(
        self,
        call_id: str,
        action: Action,
        ref: AssetRef,
        checked: Mapping[str, Any],
        decision: Decision,
        now: Any,
        parent: Call | None,
        notes: Mapping[str, Any],
    ) -> AuditEntry:
        return AuditEntry(
            call_id=call_id,
            parent=parent.id if parent else None,
            at=now,
            principal=self.caller.principal.id,
            via=self.caller.via,
            address=self.caller.address,
            action=action.name,
            resource=str(ref),
            outcome=Outcome.DONE,
            reasons=decision.reasons,
            arguments=action.recorded(checked),
            details={**self._purpose(), **notes},
        )

    def _purpose(self) -> dict[str, str]:
        """The purpose that was claimed: a claim that opened a door must be on record."""
        return {"purpose": self.caller.purpose} if self.caller.purpose else {}

    def _record_alone(
        self,
        call_id: str,
        action: Action,
        ref: AssetRef,
        checked: Mapping[str, Any],
        error: Exception,
        parent: Call | None,
        decision: Decision | None = None,
    ) -> None:
        """Keep the record of a call that did not happen, in a transaction of its own."""
        refused = decision is not None
        entry = AuditEntry(
            call_id=call_id,
            parent=parent.id if parent else None,
            at=self._backend.clock.now(),
            principal=self.caller.principal.id,
            via=self.caller.via,
            address=self.caller.address,
            action=action.name,
            resource=str(ref),
            outcome=Outcome.REFUSED if refused else Outcome.FAILED,
            reasons=decision.reasons if decision else (),
            arguments=action.recorded(checked),
            details={
                **self._purpose(),
                "error": error.code if isinstance(error, FalajError) else type(error).__name__,
            },
        )
        if parent is not None:
            # The parent's transaction may be doomed, and SQLite has one writer: tell the parent.
            parent.note(**{f"child:{action.name}": entry.details["error"]})
            return
        try:
            self._backend.commits.record((entry,))
        except AuditFailed as failure:
            raise failure.error from failure.__cause__


class _Refusal(Exception):
    def __init__(self, error: FalajError, decision: Decision) -> None:
        super().__init__(str(error))
        self.error = error
        self.decision = decision


def _step_up_needed(action: Action) -> StepUpRequired:
    return StepUpRequired(
        f"{action.name} needs a second factor from the last five minutes.",
        hint=f"Repeat it with a one-time code: `falaj --code … {action.service} {action.command} "
        "…`, or platform.step_up(code) first.",
    )


def _forbidden(action: Action, resource: Resource, may_see: bool) -> FalajError:
    if not may_see:
        return _unseen(resource)
    return Forbidden(
        f"You may not {action.name} on {resource.ref}.",
        hint="Ask an administrator for a role that permits it; `falaj whoami` shows yours.",
        permission=action.name,
    )


def _unseen(resource: Resource) -> NotFound:
    """Missing and forbidden look the same to those who may not know."""
    return NotFound(
        f"There is no {resource.ref.kind} {resource.ref.key!r} that you may see.",
        hint="Check the name, or ask its owner for access.",
    )


def _fingerprint(action: Action, checked: Mapping[str, Any]) -> str:
    model = action.arguments_model.model_construct(**checked)
    text = json.dumps(model.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{action.name}\n{text}".encode()).hexdigest()


def face(service: type[S], door: Door) -> S:
    """The service as its users see it: each method call goes through the door."""
    return cast("S", _Face(service, door))


class _Face:
    def __init__(self, service: type[Service], door: Door) -> None:
        self.__doc__ = service.__doc__
        self._door = door
        self._actions = {action.verb: action for action in service.actions()}
        self._name = service.name

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        action = self._actions.get(verb)
        if action is None:
            known = ", ".join(self._actions)
            raise AttributeError(f"{self._name} has no action {verb!r}; it has: {known}")
        door = self._door

        def through(*values: Any, idempotency_key: str | None = None, **arguments: Any) -> Any:
            bound = action.signature.bind(*values, **arguments)
            return door.call(action, bound.arguments, idempotency_key=idempotency_key)

        through.__name__ = verb
        through.__doc__ = action.function.__doc__
        return through

    def __dir__(self) -> list[str]:
        return sorted(self._actions)

    def __repr__(self) -> str:
        return f"<{self._name}: {', '.join(self._actions)}>"

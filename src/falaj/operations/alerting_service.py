"""The actions on silences and receivers of alerts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from falaj.kernel.actions import Service, action
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.operations.alerting_model import AlertDelivery, Silence
from falaj.operations.model import DeliveryState
from falaj.operations.routing import AlertReceiver, Matcher

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions
    from falaj.operations.alerting_sending import AlertDeliveries, MakeNotifier
    from falaj.operations.silences import Silences

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Limit = Annotated[int, Field(ge=1, le=1000)]
MatcherList = Annotated[list[Matcher], Field(min_length=1, max_length=20)]
SilenceList = list[Silence]
DeliveryList = list[AlertDelivery]


class ReceiverState(BaseModel):
    """Whether a receiver of alerts can be reached."""

    model_config = ConfigDict(frozen=True)

    name: str
    channel: str
    reachable: bool
    why: str = ""
    """Why not; empty if it can."""


ReceiverStates = list[ReceiverState]


class SilenceService(Service):
    """Silences: alerts that nobody is told of for a time."""

    name = "silences"

    def __init__(self, silences: Silences) -> None:
        self._silences = silences

    @action(post="/silences")
    def add(
        self,
        matchers: MatcherList,
        *,
        ends_at: datetime,
        reason: str,
        starts_at: datetime | None = None,
    ) -> Silence:
        """Keep the alerts that fit all matchers quiet until an instant, and say why."""
        for at in (starts_at, ends_at):
            if at is not None and at.tzinfo is None:
                raise InvalidInput(f"{at.isoformat()} has no zone.", hint="Write …T12:00:00Z.")
        return self._silences.add(
            self.call, matchers, starts_at=starts_at, ends_at=ends_at, reason=reason
        )

    @action(get="/silences")
    def list(self, *, ended: bool = False) -> SilenceList:
        """The silences that have not ended, or all of them."""
        since = None if ended else self.call.now
        return self._silences.listed(self.call.connection, since=since)

    @action(get="/silences/{id}", on="silence")
    def get(self, id: str) -> Silence:
        """One silence."""
        return self._silences.get(self.call.connection, id)

    @action(delete="/silences/{id}", on="silence")
    def expire(self, id: str) -> Silence:
        """End a silence before its time; the alerts are told again."""
        return self._silences.expire(self.call, id)


class ReceiverService(Service):
    """Receivers of alerts: whether they can be reached, what is on its way to them."""

    name = "receivers"

    def __init__(
        self, definitions: Definitions, deliveries: AlertDeliveries, notifier: MakeNotifier
    ) -> None:
        self._definitions = definitions
        self._deliveries = deliveries
        self._notifier = notifier

    @action(post="/receiver-checks")
    def check(self) -> ReceiverStates:
        """Ask each receiver whether it can be reached; nobody is sent anything."""
        return states_of(receivers_in(self._definitions, self.call.connection), self._notifier)

    @action(get="/receiver-deliveries")
    def deliveries(
        self,
        receiver: Name | None = None,
        *,
        state: DeliveryState | None = None,
        limit: Limit = 50,
    ) -> DeliveryList:
        """The newest messages first: attempts, why they were not taken, when the next is due."""
        return self._deliveries.listed(self.call.connection, to=receiver, state=state, limit=limit)

    @action(post="/receiver-deliveries/{delivery}/attempts")
    def resend(self, delivery: str) -> AlertDelivery:
        """Send a message that was given up again now."""
        return self._deliveries.resend(self.call, delivery)


def receivers_in(definitions: Definitions, connection: Connection) -> list[AlertReceiver]:
    """The receivers that are declared, by name."""
    listed = definitions.listed(connection, kind=AlertReceiver.kind)
    parsed = [definitions.parsed(one) for one in listed]
    return [one for one in parsed if isinstance(one, AlertReceiver)]


def states_of(receivers: list[AlertReceiver], notifier: MakeNotifier) -> ReceiverStates:
    """Whether each receiver can be reached; asks them all at once."""
    if not receivers:
        return []

    def state(receiver: AlertReceiver) -> ReceiverState:
        why = ""
        try:
            notifier(receiver).check()
        except FalajError as error:
            why = error.message
        return ReceiverState(
            name=receiver.name, channel=receiver.channel, reachable=not why, why=why
        )

    with ThreadPoolExecutor(min(8, len(receivers)), thread_name_prefix="falaj-receivers") as pool:
        return list(pool.map(state, receivers))

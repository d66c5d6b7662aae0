"""The parts of service management, joined."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from falaj.kernel.errors import InvalidInput
from falaj.wiring.seldom import Seldom

if TYPE_CHECKING:
    from falaj.operations.alerting_service import (
        ReceiverService,
        ReceiverState,
        SilenceService,
    )
    from falaj.operations.incident_service import ProblemService
    from falaj.operations.ports import AlertNotifier
    from falaj.operations.routing import AlertReceiver
    from falaj.operations.sending import Sender
    from falaj.operations.service_level_service import ServiceLevelService
    from falaj.operations.service_levels import ServiceLevels
    from falaj.wiring.assembly import Premises


def notifiers(made: Premises) -> Callable[[AlertReceiver], AlertNotifier]:
    """Makes what tells a receiver of alerts."""

    from falaj.operations.secret_uses import check_shape, check_use, takes_secret

    def notifier(receiver: AlertReceiver) -> AlertNotifier:
        settings = made.settings.receivers
        secret = settings.secret(receiver.secret_name) if takes_secret(receiver) else ""
        if secret:
            check_use(receiver, settings)
            check_shape(receiver, secret)
        if not secret and (receiver.user or receiver.channel not in ("alertmanager", "email")):
            name = receiver.secret_name
            raise InvalidInput(
                f"The receiver {receiver.name!r} has no secret.",
                hint=f"Set the variable FALAJ_RECEIVERS__SECRETS__{name.upper()},"
                f" or name a file in receivers.secret_files.{name}.",
            )
        return _of_channel(made, receiver, secret)

    return notifier


def _of_channel(made: Premises, receiver: AlertReceiver, secret: str) -> AlertNotifier:
    from falaj.kernel.outgoing import Guard, Outgoing
    from falaj.operations.adapters.receiver_alertmanager import AlertmanagerNotifier
    from falaj.operations.adapters.receiver_email import EmailNotifier
    from falaj.operations.adapters.receiver_pagerduty import PagerDutyNotifier
    from falaj.operations.adapters.receiver_slack import SlackNotifier
    from falaj.operations.adapters.receiver_teams import TeamsNotifier

    trusted = _trusted(made)
    outgoing = Outgoing(made.settings.outgoing, verify=trusted)
    if receiver.channel == "alertmanager":
        return AlertmanagerNotifier(receiver.url, outgoing, receiver.user, secret)
    if receiver.channel == "pagerduty":
        return PagerDutyNotifier(secret, outgoing, receiver.url)
    if receiver.channel == "slack":
        return SlackNotifier(secret, outgoing)
    if receiver.channel == "teams":
        return TeamsNotifier(secret, outgoing)
    if receiver.channel == "email":
        return EmailNotifier(
            receiver.url,
            receiver.sender,
            receiver.to,
            address=Guard(made.settings.outgoing).address_of,
            context=trusted or ssl.create_default_context(),
            timeout=made.settings.outgoing.timeout_seconds,
            user=receiver.user,
            password=secret,
        )
    from falaj.operations.adapters.receiver_apprise import AppriseNotifier

    return AppriseNotifier(secret)


def _trusted(made: Premises) -> ssl.SSLContext | None:
    file = made.settings.receivers.ca_file
    if file is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(file))
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"The setting receivers.ca_file names no certificates: {error}.",
            hint="It is a PEM file of authorities.",
        ) from None


def alert_sender(made: Premises) -> Sender:
    """What sends to receivers of alerts."""
    from falaj.operations.alerting_sending import WAITS, ToReceivers
    from falaj.operations.sending import Sender

    messages = ToReceivers(made.definitions, notifiers(made), made.calls, made.alerts)
    return Sender(messages, made.calls, made.settings.receivers.attempts, WAITS)


def silence_service(made: Premises) -> SilenceService:
    """The actions on silences."""
    from falaj.operations.alerting_service import SilenceService
    from falaj.operations.silences import Silences

    return SilenceService(Silences(made.catalog))


def problem_service(made: Premises) -> ProblemService:
    """The actions on problems."""
    from falaj.operations.incident_service import ProblemService
    from falaj.operations.problems import Problems

    problems = Problems(made.catalog, made.incidents, made.changes)
    return ProblemService(problems, made.catalog, made.visible)


def service_levels(made: Premises) -> ServiceLevels:
    """The service levels."""
    from falaj.monitoring.servedseries import ServedMinutes
    from falaj.operations.service_levels import ServiceLevels

    return ServiceLevels(made.definitions, ServedMinutes())


def service_level_service(made: Premises) -> ServiceLevelService:
    """The actions on service levels."""
    from falaj.operations.service_level_service import ServiceLevelService

    return ServiceLevelService(service_levels(made), made.catalog, made.visible)


def expose(made: Premises) -> None:
    """Have this process's metrics tell what the records say: of parity, alerts, incidents,
    changes, service levels and rollouts."""
    from falaj.features.parity_records import ParityMetrics
    from falaj.operations.exposed import OperationsMetrics
    from falaj.rollouts.exposed import RolloutMetrics

    registry = made.telemetry.registry
    registry.register(ParityMetrics(made.database))
    registry.register(RolloutMetrics(made.database))
    registry.register(OperationsMetrics(made.database, service_levels(made), made.clock))


def receiver_service(made: Premises) -> ReceiverService:
    """The actions on receivers."""
    from falaj.operations.alerting_sending import AlertDeliveries
    from falaj.operations.alerting_service import ReceiverService

    return ReceiverService(made.definitions, AlertDeliveries(), notifiers(made))


def receiver_states(made: Premises) -> list[ReceiverState]:
    """Whether each receiver of alerts can be reached; nobody is sent anything."""
    from falaj.operations.alerting_service import receivers_in, states_of

    with made.database.reading() as connection:
        declared = receivers_in(made.definitions, connection)
    return states_of(declared, notifiers(made))


def operation_chores(made: Premises) -> dict[str, Callable[[], object]]:
    """What service management does again and again."""
    from falaj.monitoring.series import place_of
    from falaj.monitoring.servedseries import ServedRecorder
    from falaj.operations.dispatcher import Dispatcher
    from falaj.operations.ended_deliveries import EndedDeliveries
    from falaj.operations.reviews import OverdueReviews
    from falaj.operations.service_levels import BurnWatch
    from falaj.operations.silences import Silences

    def address() -> str:
        return next(iter(made.settings.sign_in.origins), "")

    reviews = OverdueReviews(made.changes, made.alerts, made.calls)
    dispatcher = Dispatcher(
        made.definitions,
        made.alerts,
        Silences(made.catalog),
        made.catalog,
        made.calls,
        address,
    )
    recorder = ServedRecorder(
        made.definitions,
        made.serving.meters.series,
        made.calls,
        lambda: place_of(made.settings.home / "meters"),
    )
    burns = BurnWatch(service_levels(made), made.alerts, made.calls)

    def served() -> None:
        recorder.run_once()
        burns.run_once()

    return {
        "service levels": Seldom(served, every_seconds=60.0),
        "overdue reviews": Seldom(reviews.run_once, every_seconds=60.0),
        "alerts to receivers": Seldom(dispatcher.run_once, every_seconds=1.0),
        "old deliveries": Seldom(EndedDeliveries(made.calls).run_once, every_seconds=600.0),
    }

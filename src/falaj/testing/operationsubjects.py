"""What to ask of each action of service management in the small world; see
``falaj.testing.subjects``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from falaj.kernel.call import AssetRef

if TYPE_CHECKING:
    from falaj.operations.problems import Problems
    from falaj.testing.world import World

Asked = Callable[["World"], Mapping[str, Any]]
MATCHERS = [{"label": "subject", "value": "endpoint:late"}]


def of_operations() -> dict[str, Asked]:
    """How to make the arguments of each action, by its name."""
    return {
        "changes.record_emergency": lambda _world: {
            "subject": "endpoint:late",
            "title": "Drained it",
            "reason": "It answered nonsense.",
        },
        "changes.review": lambda world: {
            "id": emergency(world),
            "verdict": "justified",
            "reason": "It could not wait.",
        },
        "incidents.open": lambda world: {
            "subject": f"model:{world.copied_model()}",
            "title": "It answers nonsense.",
        },
        "incidents.acknowledge": lambda world: {"id": world.incident()},
        "incidents.assign": lambda world: {"id": world.incident(), "to": "team:delays"},
        "incidents.escalate": lambda world: {"id": world.incident(), "reason": "It spreads."},
        "incidents.prioritise": lambda world: {
            "id": world.incident(),
            "impact": "high",
            "urgency": "low",
            "reason": "It is wide, and can wait.",
        },
        "incidents.link": lambda world: {
            "id": world.incident(),
            "to": f"change:{emergency(world)}",
        },
        "problems.get": lambda world: {"id": problem(world)},
        "problems.open": lambda world: {
            "incidents": [world.incident()],
            "title": "The exporter drops rows.",
        },
        "problems.note": lambda world: {"id": problem(world), "text": "Seen again."},
        "problems.diagnose": lambda world: {
            "id": problem(world),
            "root_cause": "A buffer is too small.",
            "workaround": "Restart it.",
        },
        "problems.resolve": lambda world: {
            "id": problem(world),
            "change": emergency(world),
            "resolution": "The buffer grows.",
        },
        "service_levels.get": lambda world: {"name": service_level(world)},
        "silences.add": lambda world: {
            "matchers": MATCHERS,
            "ends_at": (world.premises.clock.now() + timedelta(hours=1)).isoformat(),
            "reason": "An upgrade.",
        },
        "silences.get": lambda world: {"id": silence(world)},
        "silences.expire": lambda world: {"id": silence(world)},
        "receivers.resend": lambda world: {"delivery": dead_delivery(world)},
    }


def emergency(world: World) -> str:
    """The id of a new emergency change of the platform's own, which nobody has reviewed."""
    with world.call("system:rollouts") as call:
        return world.premises.changes.record_emergency(
            call,
            kind="rollback",
            subject=AssetRef("endpoint", "late"),
            title="Rolled back",
            reason="A guardrail was breached.",
            evidence={"error_rate": 0.2},
            payload={},
        ).id


def problem(world: World) -> str:
    """The id of a new problem of a new incident."""
    incident = world.incident()
    with world.call() as call:
        return _problems(world).open(call, [incident], "The exporter drops rows.").id


def _problems(world: World) -> Problems:
    from falaj.operations.problems import Problems

    made = world.premises
    return Problems(made.catalog, made.incidents, made.changes)


def service_level(world: World) -> str:
    """The name of a new service level of the endpoint."""
    from falaj.operations.budgets import ServiceLevel

    name = world.new("model")
    with world.call() as call:
        level = ServiceLevel(name=name, endpoint="late", objective=0.99)
        world.premises.definitions.apply(call, [level])
    return name


def silence(world: World) -> str:
    """The id of a new silence."""
    from falaj.operations.routing import Matcher
    from falaj.operations.silences import Silences

    with world.call() as call:
        return (
            Silences(world.premises.catalog)
            .add(
                call,
                [Matcher.model_validate(one) for one in MATCHERS],
                starts_at=None,
                ends_at=call.now + timedelta(hours=1),
                reason="An upgrade.",
            )
            .id
        )


def dead_delivery(world: World) -> str:
    """The id of a message to a receiver that was given up."""
    from sqlalchemy import insert

    from falaj.kernel.ids import new_id
    from falaj.operations.alerting_tables import alert_deliveries

    made = new_id("notice")
    with world.call() as call:
        call.connection.execute(
            insert(alert_deliveries).values(
                id=made, receiver="nobody", group_key=made, status="firing", body="{}",
                state="dead", attempts=10, created_at=call.now, ended_at=call.now, error="gone",
            )
        )  # fmt: skip
    return made

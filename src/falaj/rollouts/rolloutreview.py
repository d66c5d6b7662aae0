"""Whether a rollout can be started as it is planned, as far as definitions tell: with each plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from falaj.catalog.planning import Step
from falaj.features.model import FeatureService
from falaj.features.plan import ServicePlan
from falaj.kernel.errors import FalajError, InvalidInput, NotFound
from falaj.models.model import ModelPolicy
from falaj.monitoring.retrainingwords import Retraining
from falaj.rollouts.model import LEAST_PERIODS, Rollout, RolloutKind
from falaj.serving.model import Endpoint

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definition, Resulting
    from falaj.catalog.planning import PlannedDefinition

Find = Callable[..., "Definition"]
"""One version of a definition, as ``Definitions.definition`` gives it."""


class RolloutReview:
    """Judges each plan that changes rollouts, or retrainings that name one; a ``Review``.

    Args:
        find: see its type.
    """

    def __init__(self, find: Find) -> None:
        self._find = find

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], resulting: Resulting
    ) -> list[PlannedDefinition]:
        """The items as they are; raises InvalidInput."""
        for item in items:
            if item.step not in (Step.CREATE, Step.UPDATE):
                continue
            found = resulting.get(item.kind, item.name)
            if isinstance(found, Rollout):
                self._check(connection, found, resulting)
            elif isinstance(found, Retraining) and found.rollout is not None:
                _check_tried(found, found.rollout, resulting)
        return list(items)

    def _check(self, connection: Connection, rollout: Rollout, after: Resulting) -> None:
        _check_periods(rollout)
        endpoint = after.get(Endpoint.kind, rollout.endpoint)
        if not isinstance(endpoint, Endpoint):
            return  # refused elsewhere
        if endpoint.unit is None and divides_units(rollout):
            raise InvalidInput(
                f"The rollout {rollout.name!r} divides the units of {endpoint.name!r}, and that "
                "endpoint declares none.",
                hint='Name the request field of the unit: Endpoint(…, unit="customer").',
            )
        asked = [("unit", endpoint.unit)] if endpoint.unit and divides_units(rollout) else []
        asked += [("field", one) for one in rollout.fields]
        if not asked:
            return
        known = self._fields(connection, endpoint, after)
        for what, name in asked:
            if known is not None and name not in known:
                by = f"the unit of {endpoint.name!r}, " if what == "unit" else ""
                raise InvalidInput(
                    f"The rollout {rollout.name!r} tells requests apart by {by}{name!r}, which is "
                    f"no field of them; they have {', '.join(sorted(known)) or 'none'}.",
                    hint="Declare it among the endpoint's fields: "
                    f'`fields=(RequestField(name="{name}", type="string"),)`, or correct the name.',
                )

    def _fields(
        self, connection: Connection, endpoint: Endpoint, after: Resulting
    ) -> set[str] | None:
        """The request fields of an endpoint; None if definitions do not tell all of them.

        Which service the deployed version was trained on only its bundle says; the policy of
        its model says which one versions are trained on.
        """
        own = {one.name for one in endpoint.fields}
        name = endpoint.feature_service
        if name is None:
            policy = after.get(ModelPolicy.kind, endpoint.model)
            name = policy.feature_service if isinstance(policy, ModelPolicy) else None
        service = None if name is None else after.get(FeatureService.kind, name)
        if not isinstance(service, FeatureService):
            return None
        try:
            plan = ServicePlan.of(service, _After(connection, after, self._find))
        except FalajError:
            return None  # the service's own applier says what is wrong with it
        return own | set(plan.spine_columns)


class _After:
    """Definitions as a plan would leave them; fulfils ``features.plan.DefinitionAccess``."""

    def __init__(self, connection: Connection, after: Resulting, find: Find) -> None:
        self._connection = connection
        self._after = after
        self._find = find

    def get(self, kind: str, name: str) -> Any:
        found = self._after.get(kind, name)
        if found is None:
            raise NotFound(f"There is no {kind} {name!r}.")
        return found

    def version(self, kind: str, name: str, version: int) -> Any:
        return self._find(self._connection, kind, name, version)

    def all(self, kind: str) -> Sequence[Any]:
        return self._after.all(kind)


def divides_units(rollout: Rollout) -> bool:
    """True if a rollout assigns variants by units: then its endpoint needs one."""
    if rollout.layer is not None or rollout.holdout > 0:
        return True
    return rollout.how not in (RolloutKind.SHADOW, RolloutKind.INTERLEAVED)


def _check_periods(rollout: Rollout) -> None:
    """Refuse an end by promotion before whose time no guardrail can be judged."""
    if rollout.how is not RolloutKind.INTERLEAVED or rollout.at_longest != "promote":
        return
    if rollout.longest < LEAST_PERIODS * rollout.period:
        raise InvalidInput(
            f"The rollout {rollout.name!r} is to be promoted after {rollout.longest}, and "
            f"guardrails of an interleaved one are judged from {LEAST_PERIODS} periods of "
            f"{rollout.period} on.",
            hint=f"Declare longest={LEAST_PERIODS * rollout.period} or more, a shorter period, or "
            'at_longest="champion".',
        )


def _check_tried(retraining: Retraining, name: str, after: Resulting) -> None:
    """Refuse a retraining whose rollout is of another endpoint, or of several challengers."""
    rollout = after.get(Rollout.kind, name)
    if not isinstance(rollout, Rollout):
        return  # refused elsewhere
    if rollout.endpoint != retraining.endpoint:
        raise InvalidInput(
            f"The retraining {retraining.name!r} is of {retraining.endpoint!r}, and its rollout "
            f"{name!r} of {rollout.endpoint!r}.",
            hint="Name a rollout of the same endpoint.",
        )
    if len(rollout.challengers) != 1:
        raise InvalidInput(
            f"The rollout {name!r} of the retraining {retraining.name!r} has "
            f"{len(rollout.challengers)} challengers; the new version takes the place of one.",
            hint="Name a rollout of one challenger.",
        )

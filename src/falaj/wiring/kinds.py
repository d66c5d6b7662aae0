"""The kinds of definition that a user may declare, and what judges a plan of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from falaj.catalog.definitions import Definition, Review

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Resulting
    from falaj.catalog.planning import PlannedDefinition
    from falaj.features.foreign import ForeignTables
    from falaj.lake.ports import Lake


def definition_kinds() -> dict[str, type[Definition]]:
    """Every definition class by its kind."""
    from falaj.catalog.policies import Policy
    from falaj.features.appliers import KINDS
    from falaj.ingest.model import Contract, Source
    from falaj.lake.readrules import ReadRule
    from falaj.models.model import ModelPolicy
    from falaj.monitoring.model import Monitor
    from falaj.monitoring.retrainingwords import Retraining
    from falaj.operations.budgets import ServiceLevel
    from falaj.operations.routing import AlertReceiver, AlertRoute, InhibitRule
    from falaj.operations.standard import ChangeTemplate
    from falaj.rollouts.model import Metric, Rollout
    from falaj.serving.model import Endpoint
    from falaj.training.pipelines.model import Pipeline

    own: list[type[Definition]] = [
        Source, Contract, Pipeline, ModelPolicy, Endpoint, Monitor, Policy, ReadRule,
        ChangeTemplate, Metric, Rollout, AlertReceiver, AlertRoute, InhibitRule, Retraining,
        ServiceLevel,
    ]  # fmt: skip
    return {**{kind.kind: kind for kind in own}, **KINDS}


def proposed_kinds() -> list[str]:
    """The kinds of definition that another person approves."""
    return [kind for kind, definition in definition_kinds().items() if definition.proposed]


def definition_reviews(
    find: Callable[..., Definition],
    foreign: Callable[[], ForeignTables],
    lake: Callable[[], Lake],
    policies: Review,
    *others: Review,
) -> list[Review]:
    """What judges a plan: whether changes are compatible, and views fit their sources.

    Args:
        find: one version of a definition, as ``Definitions.definition`` gives it.
        foreign, lake: made when they are first needed.
        policies: judges the operator's own policies.
        others: of other rooms, such as what keeps data in its region.
    """

    def of_the_rooms(
        connection: Connection, items: Sequence[PlannedDefinition], after: Resulting
    ) -> list[PlannedDefinition]:
        # With numpy and pyarrow, for which most processes, that plan nothing, need not wait.
        from falaj.features.compatibility import Compatibility
        from falaj.features.exposure import ClassifiedColumns
        from falaj.features.fitting import Fitting
        from falaj.features.subjectviews import SubjectsNamed
        from falaj.ingest.declared import ColumnsOfPlans
        from falaj.ingest.expressions import ExpressionsOfPlans
        from falaj.lake.readrules import ReadRuleReview
        from falaj.rollouts.metricreview import MetricReview
        from falaj.rollouts.rolloutreview import RolloutReview
        from falaj.wiring.readingparts import schema_of

        reviews: tuple[Review, ...] = (
            Compatibility(find),
            Fitting(lambda table: foreign().schema(table), lake),
            SubjectsNamed(),
            ExpressionsOfPlans(),
            ColumnsOfPlans(),
            ClassifiedColumns(),
            ReadRuleReview(lambda table, resulting: schema_of(lake(), table, resulting)),
            MetricReview(),
            RolloutReview(find),
        )
        found = list(items)
        for review in reviews:
            found = review(connection, found, after)
        return found

    return [of_the_rooms, policies, *others]

"""Whether a rollout can be measured as it is declared, and by the one who asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Forbidden, InvalidInput
from falaj.rollouts.metricreview import check_columns
from falaj.rollouts.metrics import check_there, tables_read
from falaj.rollouts.model import BUILT_IN, Metric, MetricKind, Rollout, RolloutKind
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from falaj.lake.ports import Lake
    from falaj.lake.reading import GuardedLake

READ = "tables.read"
May = Callable[[Call, str, AssetRef], bool]
"""True if the caller may do the named action on an asset, as the caller stands now."""


def declared_metrics(rollout: Rollout, declared: Callable[[str], Metric]) -> Iterator[Metric]:
    """The declared metrics of a rollout; ``declared`` finds one by name, or raises NotFound."""
    for ref in rollout.references():
        if ref.kind == "metric":
            yield declared(ref.key)


def check_measurable(rollout: Rollout, declared: Callable[[str], Metric]) -> None:
    """Return if what is declared of a rollout's metrics goes together.

    Raises:
        InvalidInput: it does not; MetricRefused: a metric's text asks for more than it may;
            NotFound: there is no such metric.
    """
    for metric in declared_metrics(rollout, declared):
        tables_read(metric, rollout.endpoint)
        check_columns(metric, by_variant=rollout.how is RolloutKind.SHADOW)
    for guardrail in rollout.guardrails:
        if guardrail.between is None:
            continue
        if guardrail.metric in BUILT_IN or declared(guardrail.metric).measures in (
            MetricKind.EVENTS,
            MetricKind.QUANTILE,
        ):
            raise InvalidInput(
                f"{guardrail.metric!r} cannot be compared between groups.",
                hint="Guard fairness by a declared proportion, mean or ratio.",
            )
        if rollout.how is RolloutKind.INTERLEAVED:
            raise InvalidInput(
                "An interleaved rollout compares whole segments, and no groups of units.",
                hint="Guard fairness in an A/B rollout or a canary.",
            )
    success = rollout.success
    if success is None:
        return
    if success.metric in BUILT_IN or declared(success.metric).measures is MetricKind.QUANTILE:
        raise InvalidInput(
            f"{success.metric!r} cannot decide for a challenger.",
            hint="Decide by a declared proportion, mean, ratio or counted event.",
        )
    if success.covariate is not None and declared(success.metric).measures is MetricKind.RATIO:
        raise InvalidInput(
            f"{success.metric!r} is a ratio, which Falaj adjusts by no covariate.",
            hint="Leave the covariate out.",
        )


def check_tables(rollout: Rollout, declared: Callable[[str], Metric], lake: Lake) -> None:
    """Return if the tables that a rollout's metrics read are there, and fit them.

    Raises:
        MetricRefused: one of them is not, or does not.
    """
    for metric in declared_metrics(rollout, declared):
        shadow = rollout.how is RolloutKind.SHADOW
        check_there(lake, metric, rollout.endpoint, by_variant=shadow)


def check_may_measure(
    call: Call,
    rollout: Rollout,
    declared: Callable[[str], Metric],
    guarded: GuardedLake,
    may: May,
) -> None:
    """Return if the caller may read, in clear, every table that the rollout's metrics read, and
    the prediction log where units are told apart by fields of requests.

    Looks are made by the platform, whoever is there: so whoever starts a rollout must be
    allowed to see what it computes with.

    Raises:
        Forbidden, SeenInPart: the caller may not; and what ``check_measurable`` raises.
    """
    check_measurable(rollout, declared)
    read = [
        (table, f"The metric {metric.name!r} reads")
        for metric in declared_metrics(rollout, declared)
        for table in sorted(tables_read(metric, rollout.endpoint))
    ]
    if rollout.fields:
        read.append(
            (
                table_of(rollout.endpoint),
                f"Its units are told apart by {', '.join(rollout.fields)} of",
            )
        )
    for table, what in read:
        if not may(call, READ, AssetRef("table", table)):
            raise Forbidden(
                f"{what} {table!r}, which you may not read.",
                hint="Ask somebody who may read it to start the rollout.",
            )
        guarded.check_clear(call, table, None, todo="measure a rollout by")

"""A rollout that could not start is refused when it is planned, with what to do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from falaj import declare as of
from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.database import Database
from falaj.kernel.errors import InvalidInput
from falaj.rollouts.rolloutreview import RolloutReview
from falaj.testing.calls import opened_call
from falaj.testing.world import definitions
from falaj.wiring.kinds import definition_kinds


class Plans:
    """The definitions of the small world, and plans on top of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._definitions = Definitions(
            Catalog(),
            definition_kinds(),
            {},
            [RolloutReview(lambda *asked: self._definitions.definition(*asked))],
        )
        with opened_call(database) as call:
            self._definitions.apply(call, definitions())

    def plan(self, *given: Any) -> list[str]:
        with self._database.reading() as connection:
            plan = self._definitions.plan(connection, list(given))
        return [f"{one.kind}:{one.name}" for one in plan.items]


@pytest.fixture
def plans(sqlite_database: Database) -> Plans:
    return Plans(sqlite_database)


def rollout(**given: Any) -> of.Rollout:
    told: dict[str, Any] = {
        "name": "try", "endpoint": "late", "challengers": (of.Challenger(name="a", version=1),),
        "stages": (of.Stage(share=0.1),),
    }  # fmt: skip
    return of.Rollout(**(told | given))


def late(**given: Any) -> of.Endpoint:
    return of.Endpoint(name="late", model="late", **given)


@pytest.mark.parametrize(
    ("unit", "fields"),
    [
        ("carrier", ()),  # of the feature service
        ("customer", (of.RequestField(name="customer", type="string"),)),
    ],
)
def test_a_unit_is_a_field_of_the_feature_service_or_of_the_endpoint(
    plans: Plans, unit: str, fields: Any
) -> None:
    assert "rollout:try" in plans.plan(late(unit=unit, fields=fields), rollout())


def test_a_unit_that_no_request_tells_is_refused_with_the_fields_that_there_are(
    plans: Plans,
) -> None:
    with pytest.raises(InvalidInput) as refused:
        plans.plan(late(unit="custmer"), rollout())
    assert "'custmer', which is no field of them; they have carrier, signal." in str(refused.value)
    assert 'RequestField(name="custmer", type="string")' in refused.value.hint


def test_an_endpoint_without_a_unit_has_nothing_to_divide(plans: Plans) -> None:
    with pytest.raises(InvalidInput, match="declares none"):
        plans.plan(rollout())


def test_beside_a_shadow_nothing_is_divided_but_in_a_layer(plans: Plans) -> None:
    assert "rollout:try" in plans.plan(rollout(how="shadow", stages=()))
    with pytest.raises(InvalidInput, match="declares none"):
        plans.plan(rollout(how="shadow", stages=(), layer="shop"))


def test_groups_of_a_fairness_guardrail_are_told_apart_by_a_field(plans: Plans) -> None:
    guarded = of.Guardrail(metric="error_rate", between="region")
    with pytest.raises(InvalidInput, match="by 'region', which is no field"):
        plans.plan(late(unit="carrier"), rollout(guardrails=(guarded,)))


def test_a_service_that_is_changed_in_the_same_plan_counts_as_it_will_be(plans: Plans) -> None:
    service = of.FeatureService(name="delays", request_fields={"route": "string"})
    assert "rollout:try" in plans.plan(service, late(unit="route"), rollout())
    with pytest.raises(InvalidInput, match="they have route"):
        plans.plan(service, late(unit="carrier"), rollout())


TWO = (of.Challenger(name="a", version=1), of.Challenger(name="b", version=2))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"endpoint": "other"}, "of 'other'"),
        ({"how": "shadow", "stages": (), "challengers": TWO}, "2 challengers"),
    ],
)
def test_a_retraining_names_a_rollout_that_can_try_its_version(
    plans: Plans, given: dict[str, Any], told: str
) -> None:
    again = of.Retraining(
        name="again", endpoint="late", model="late", pipeline="counting", rollout="try",
        triggers=(of.OnSchedule(every=timedelta(days=1)),),
    )  # fmt: skip
    endpoints = [late(unit="carrier"), of.Endpoint(name="other", model="late", unit="carrier")]
    with pytest.raises(InvalidInput, match=told):
        plans.plan(*endpoints, rollout(**given), again)


def test_an_interleaved_rollout_is_not_promoted_before_its_guardrails_can_be_judged(
    plans: Plans,
) -> None:
    told: dict[str, Any] = {
        "how": "interleaved", "stages": (), "segment": "carrier", "period": timedelta(hours=1),
        "at_longest": "promote",
    }  # fmt: skip
    with pytest.raises(InvalidInput, match="judged from 20 periods"):
        plans.plan(late(), rollout(**told, longest=timedelta(hours=19)))
    assert "rollout:try" in plans.plan(late(), rollout(**told, longest=timedelta(hours=20)))

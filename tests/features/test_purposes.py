"""Features are read for the purposes that all of their views permit, and for no other."""

import pytest

from falaj.features.model import Entity, Feature, FeatureService, FeatureView
from falaj.features.plan import ServicePlan
from falaj.features.purposes import PurposeRefused, permitted, purposes_of
from falaj.testing.features import GivenDefinitions


def plan_of(*purposes):
    card = Entity(name="card", keys={"card": "string"})
    views = [
        FeatureView(name=f"v{place}", entity=card, source="t", event_time="at",
                    features=[Feature("x", "float64")], purposes=named)
        for place, named in enumerate(purposes)
    ]  # fmt: skip
    service = FeatureService(name="s", features=views)
    return ServicePlan.of(service, GivenDefinitions(card, service, *views))


def test_a_service_whose_views_name_no_purpose_is_read_for_any():
    plan = plan_of((), ())
    assert purposes_of(plan) is None
    permitted(plan, None)
    permitted(plan, "marketing")


def test_the_purposes_of_a_service_are_those_that_all_its_views_that_name_some_permit():
    plan = plan_of(("fraud", "credit"), (), ("credit", "audit"))
    assert purposes_of(plan) == ("credit",)
    permitted(plan, "credit")


@pytest.mark.parametrize("purpose", ["fraud", "", None])
def test_another_purpose_or_none_is_refused_with_the_permitted_ones(purpose):
    with pytest.raises(PurposeRefused, match="permit credit") as refused:
        permitted(plan_of(("fraud", "credit"), ("credit",)), purpose)
    assert refused.value.details == {"permitted": ["credit"]}
    assert "--purpose" in refused.value.hint


def test_views_without_a_common_purpose_may_be_read_for_none():
    plan = plan_of(("fraud",), ("marketing",))
    assert purposes_of(plan) == ()
    with pytest.raises(PurposeRefused, match="no purpose in common"):
        permitted(plan, "fraud")

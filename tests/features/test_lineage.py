"""Lineage of features: which columns flow into which features, and on to services."""

from datetime import timedelta

import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.catalog.model import Classification, Direction
from falaj.features import lineage
from falaj.features.appliers import KINDS, appliers
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Filter,
    OnDemandFeatures,
)
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput
from falaj.testing.calls import opened_call

HOUR = timedelta(hours=1)
CARD = Entity(name="card", keys={"card": "string"})


def spent(*aggregates, **values):
    return FeatureView(
        name="spent", entity=CARD, source="payments", event_time="at",
        entity_columns={"card": "card_no"}, aggregates=aggregates, **values,
    )  # fmt: skip


TOTAL = Aggregate("total", "sum", "paid", window=HOUR)
SEEN = Aggregate("seen", "count", window=HOUR)
BALANCE = FeatureView(
    name="balance", entity=CARD, source="accounts", event_time="at",
    features=[Feature("money", "float64", column="amount"), Feature("tier", "string")],
    classification="personal",
)  # fmt: skip
SHARE = OnDemandFeatures(
    name="share", inputs={"a": "spent:total", "b": "balance:money"},
    outputs=[Feature("of_money", "float64")], source="def share(a, b):\n    return a / b\n",
)  # fmt: skip
SERVICE = FeatureService(
    name="fraud", features=["spent:seen", "balance:tier", SHARE], classification="personal"
)


@pytest.fixture
def catalog():
    return Catalog()


@pytest.fixture
def apply(catalog, sqlite_database):
    held = {}
    definitions = held["it"] = Definitions(
        catalog, KINDS, appliers(lambda *asked: held["it"].definition(*asked), catalog)
    )

    def applied(*documents):
        with opened_call(sqlite_database) as call:
            return definitions.apply(call, documents)

    return applied


@pytest.fixture
def reached(catalog, sqlite_database):
    def found(kind, key, direction=Direction.DOWNSTREAM):
        with opened_call(sqlite_database) as call:
            walked = catalog.walk(call.connection, AssetRef(kind, key), direction)
        return {str(node.ref) for node in walked.root.walked()}

    return found


def test_a_column_reaches_the_features_and_services_that_its_values_go_into(apply, reached):
    apply(CARD, spent(TOTAL, SEEN), BALANCE, SHARE, SERVICE)
    assert reached("column", "payments/paid") == {
        "column:payments/paid", "feature:spent:total", "feature:share:of_money",
        "feature_service:fraud",
    }  # fmt: skip
    assert "feature_service:fraud" in reached("column", "accounts/tier")
    assert "feature:balance:money" not in reached("column", "accounts/tier")
    upstream = reached("feature", "share:of_money", Direction.UPSTREAM)
    assert {"column:payments/paid", "column:accounts/amount", "table:payments"} <= upstream


def test_keys_and_instants_flow_into_the_view_and_filters_into_each_feature(apply, reached):
    apply(CARD, spent(TOTAL, SEEN, where=[Filter("kind", "==", "card")]))
    assert {"feature:spent:total", "feature:spent:seen"} <= reached("column", "payments/kind")
    for column in ("card_no", "at"):
        assert "feature_view:spent" in reached("column", f"payments/{column}")


def test_a_feature_that_takes_another_column_no_longer_hangs_on_the_first(apply, reached):
    apply(CARD, spent(TOTAL))
    apply(spent(Aggregate("total", "sum", "paid_net", window=HOUR)))
    assert "feature:spent:total" not in reached("column", "payments/paid")
    assert "feature:spent:total" in reached("column", "payments/paid_net")


def test_a_feature_is_as_secret_as_its_view_and_says_what_it_is(apply, catalog, sqlite_database):
    apply(CARD, BALANCE)
    with opened_call(sqlite_database) as call:
        asset = catalog.get(call.connection, lineage.feature_ref("balance", "money"))
    assert asset.classification is Classification.PERSONAL
    assert asset.attributes["column"] == "amount"
    assert (asset.attributes["source"], asset.attributes["dtype"]) == ("accounts", "float64")


def test_a_very_wide_view_is_recorded_as_a_whole(apply, reached):
    n = lineage.MOST_FEATURES + 1
    wide = FeatureView(
        name="wide", entity=CARD, source="payments", event_time="at",
        features=[Feature(f"f{i}", "float64", column="paid") for i in range(n)],
    )  # fmt: skip
    apply(CARD, wide, FeatureService(name="s", features=["wide:f3"]))
    assert {"feature_view:wide", "feature_service:s"} <= reached("column", "payments/paid")
    assert "feature:wide:f3" not in reached("feature_view", "wide")


def test_a_service_of_views_without_a_common_purpose_is_refused(apply):
    views = [
        FeatureView(name=f"v{p}", entity=CARD, source="t", event_time="at", purposes=[p],
                    features=[Feature("x", "float64")])
        for p in ("fraud", "marketing")
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="no purpose in common"):
        apply(CARD, *views, FeatureService(name="s", features=views))

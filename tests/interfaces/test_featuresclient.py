"""The client of the data plane, against a worker that is wired as `falaj up` wires it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from falaj.features.model import Entity, Feature, FeatureService, FeatureView
from falaj.features.purposes import PurposeRefused
from falaj.interfaces.featuresclient import FeaturesClient, connect_features
from falaj.interfaces.platform import near
from falaj.kernel.call import Principal, PrincipalKind
from falaj.kernel.errors import (
    InvalidInput,
    LimitExceeded,
    NotFound,
    StepUpRequired,
    Unauthenticated,
    Unavailable,
)
from falaj.kernel.settings import Settings
from falaj.testing.serving import fronted
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise

NOW = datetime.now(UTC)


def definitions() -> list[Any]:
    card = Entity(name="card", keys={"card": "string"})

    def view(name: str, **more: Any) -> FeatureView:
        return FeatureView(
            name=name, entity=card, source=f"{name}_rows", event_time="at",
            features=[Feature("amount", "float64"), Feature("seen", "timestamp")], **more,
        )  # fmt: skip

    views = [
        view("open"),
        view("study", purposes=("research",)),
        view("private", classification="personal"),
    ]
    services = [
        FeatureService(
            name=f"{one.name}_service", features=[one], classification=one.classification
        )
        for one in views
    ]
    return [card, *views, *services]


class World:
    def __init__(self, premises: Premises, url: str) -> None:
        self.premises, self.url = premises, url

    def client(
        self, name: str = "service:shop", role: str = "service", **more: Any
    ) -> FeaturesClient:
        kind = PrincipalKind(name.partition(":")[0])
        token, _ = self.premises.tokens.issue(
            Principal(name, kind, (role,)),
            session="session_test", account_epoch=0, mfa_at=None, now=datetime.now(UTC),
        )  # fmt: skip
        return FeaturesClient(httpx.Client(base_url=self.url), lambda: token, **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    settings = Settings.read(tmp_path_factory.mktemp("platform"))
    initialise(settings, owner="amina")
    premises = assemble(settings, process="inference-1")
    near(premises).definitions.apply(documents=[one.document() for one in definitions()])
    rows = pa.table({"card": ["a"], "at": [NOW], "amount": [12.5], "seen": [NOW]})
    for name in ("open", "study", "private"):
        premises.features.push(f"{name}_rows", rows, stored=True)
    with fronted(premises.serving.inference_app("inference-1")) as url:
        yield World(premises, url)
    premises.close()


def test_rows_columns_and_tables_read_the_same(world: World) -> None:
    with world.client() as client:
        (row, nothing) = client.read("open_service", [{"card": "a"}, {"card": np.str_("z")}])
        columns = client.read_columns("open_service", {"card": ["a", "z"]})
        table = client.read_arrow("open_service", pa.table({"card": ["a", "z"]}))
    assert row["open__amount"] == 12.5
    assert nothing == {"open__amount": None, "open__seen": None}
    assert columns["open__amount"] == [12.5, None]
    assert columns["open__seen"] == [row["open__seen"], None]
    assert table["open__amount"].to_pylist() == [12.5, None]
    assert table["open__seen"].to_pylist() == [NOW, None]


def test_an_earlier_instant_can_be_read(world: World) -> None:
    before = NOW - timedelta(days=1)
    with world.client() as client:
        assert client.read("open_service", [{"card": "a"}], at=before)[0]["open__amount"] is None
        early = client.read_columns("open_service", {"card": ["a"]}, at=before)
    assert early["open__amount"] == [None]


def test_what_is_pushed_can_be_read_and_counts_once(world: World) -> None:
    event = {"card": "n", "at": datetime.now(UTC), "amount": np.float64(3.5), "seen": None}
    with world.client() as client:
        pushed = client.push("open_rows", [event], key="one")
        assert (pushed.n_events, pushed.repeated) == (1, False)
        assert client.push("open_rows", [event], key="one").repeated
        assert client.read("open_service", [{"card": "n"}])[0]["open__amount"] == 3.5
        times = pa.array([None], pa.timestamp("us", tz="UTC"))
        later = pa.table({"card": ["n"], "at": [datetime.now(UTC)], "amount": [4.5], "seen": times})
        client.push("open_rows", later)
        assert client.read("open_service", [{"card": "n"}])[0]["open__amount"] == 4.5


def test_a_purpose_is_stated_once_for_all_reads(world: World) -> None:
    with world.client() as client, pytest.raises(PurposeRefused) as refused:
        client.read("study_service", [{"card": "a"}])
    assert refused.value.details["permitted"] == ["research"]
    with world.client(purpose="research") as client:
        assert client.read("study_service", [{"card": "a"}])[0]["study__amount"] == 12.5


def test_personal_features_need_what_the_policy_says(world: World) -> None:
    with world.client() as client, pytest.raises(NotFound):
        client.read("private_service", [{"card": "a"}])
    with world.client(purpose="fraud") as client:
        assert client.read("private_service", [{"card": "a"}])[0]["private__amount"] == 12.5
    person = world.client("user:amal", "ml_engineer", purpose="fraud")
    with person, pytest.raises(StepUpRequired):
        person.read("private_service", [{"card": "a"}])


def test_an_error_of_the_worker_is_raised_as_its_own_class(world: World) -> None:
    with world.client() as client:
        with pytest.raises(InvalidInput, match="card"):
            client.read("open_service", [{"cards": "a"}])
        with pytest.raises(NotFound):
            client.read("nothing", [{"card": "a"}])
        with pytest.raises(LimitExceeded, match="10000"):
            client.read("open_service", [{"card": "a"}] * 10_001)
        with pytest.raises(InvalidInput, match="JSON"):
            client.read("open_service", [{"card": object()}])
    stranger = FeaturesClient(httpx.Client(base_url=world.url), lambda: "no-token")
    with stranger, pytest.raises(Unauthenticated):
        stranger.read("open_service", [{"card": "a"}])
    nowhere = FeaturesClient(httpx.Client(base_url="http://127.0.0.1:9"), lambda: "a")
    with nowhere, pytest.raises(Unavailable):
        nowhere.read("open_service", [{"card": "a"}])


def test_a_client_speaks_tls_only_and_must_say_who_asks() -> None:
    with pytest.raises(InvalidInput, match="https"):
        connect_features("http://127.0.0.1", token="t")
    with pytest.raises(InvalidInput, match="who asks"):
        connect_features("https://127.0.0.1")
    with connect_features("https://127.0.0.1:9", token="t") as client, pytest.raises(Unavailable):
        client.read("any", [])

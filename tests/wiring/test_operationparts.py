"""Receivers of alerts as a platform makes them: secrets from settings, doctor, the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from falaj.catalog.definitions import Definition, Definitions
from falaj.interfaces.doctor import Unwell
from falaj.interfaces.doctor_programs import receivers as doctors_receivers
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import Settings
from falaj.monitoring.series import place_of
from falaj.monitoring.servedtables import served_marks
from falaj.operations.budgets import ServiceLevel
from falaj.operations.model import Severity
from falaj.operations.routing import AlertReceiver, AlertRoute
from falaj.testing.receivers import HttpsReceiver
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.operationparts import alert_sender, notifiers, operation_chores
from falaj.wiring.setup import initialise


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsReceiver]:
    made = HttpsReceiver(tmp_path_factory.mktemp("channel"), lambda _headers, _path, _told: "")
    yield made
    made.close()


@pytest.fixture(scope="module")
def premises(
    tmp_path_factory: pytest.TempPathFactory, channel: HttpsReceiver
) -> Iterator[Premises]:
    folder = tmp_path_factory.mktemp("project")
    (folder / "hook").write_text(f"{channel.url}/services/from-a-file\n")
    settings = Settings.read(
        folder,
        outgoing={"allowed": ["localhost"]},
        receivers={
            "secrets": {"on_call": "R0123", "post": "p4ss", "keys": "https://hooks/x"},
            "uses": {"post": {"channel": "email", "host": "mail.internal"}},
            "secret_files": {"crew": folder / "hook"},
            "ca_file": channel.ca,
        },
    )
    initialise(settings, owner="owner")
    made = assemble(settings, process="test")
    yield made
    made.close()


def _declare(premises: Premises, *definitions: Any) -> None:
    with premises.calls.opened("test", "user:owner") as call:
        premises.definitions.apply(call, definitions)


def _declare_alone(premises: Premises, definition: Definition) -> None:
    """Where nothing else is known that it could be judged by."""
    alone = Definitions(premises.catalog, {definition.kind: type(definition)}, {})
    with premises.calls.opened("test", "user:owner") as call:
        alone.apply(call, [definition])


def test_an_alert_goes_out_as_the_settings_and_the_declarations_say(
    premises: Premises, channel: HttpsReceiver
) -> None:
    _declare(
        premises,
        AlertReceiver(name="crew", channel="slack"),
        AlertRoute(name="all", receiver="crew", group_wait_seconds=0),
    )
    with premises.calls.opened("test", "system:checks") as call:
        subject = AssetRef("table", "flights")
        premises.catalog.record(call, subject)
        premises.alerts.raise_alert(
            call, name="empty", subject=subject, severity=Severity.WARNING,
            message="No rows came", evidence={},
        )  # fmt: skip
    operation_chores(premises)["alerts to receivers"]()
    assert alert_sender(premises).run_once() == 1
    (told,) = channel.told
    assert "No rows came" in json.loads(told)["text"]
    assert "can be reached" in doctors_receivers(premises)


def test_a_receiver_without_its_secret_is_named_with_the_variable_to_set(
    premises: Premises,
) -> None:
    lonely = AlertReceiver(name="night-shift", channel="pagerduty")
    with pytest.raises(InvalidInput, match="FALAJ_RECEIVERS__SECRETS__NIGHT_SHIFT"):
        notifiers(premises)(lonely)
    notifiers(premises)(AlertReceiver(name="night-shift", channel="pagerduty", secret="on_call"))


MAIL = {"channel": "email", "sender": "a@b.ae", "to": ("c@d.ae",), "user": "falaj"}
ELSEWHERE = "https://evil.example"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"channel": "alertmanager", "url": ELSEWHERE, "secret": "on_call"}, "bound to no server"),
        ({"channel": "pagerduty", "url": ELSEWHERE, "secret": "on_call"}, "bound to no server"),
        ({"channel": "alertmanager", "url": ELSEWHERE, "secret": "post"}, "is for email"),
        ({"channel": "alertmanager", "url": "https://mail.internal", "secret": "post"}, "is for"),
        ({"channel": "pagerduty", "secret": "post"}, "is for email mail.internal, not"),
        ({**MAIL, "url": "smtp://evil.example", "secret": "post"}, "evil.example:587"),
        ({**MAIL, "url": "smtp://mail.internal:2525", "secret": "post"}, "mail.internal:2525"),
        ({**MAIL, "url": "smtp://mail.internal@evil.example", "secret": "post"}, "names no server"),
        ({**MAIL, "url": "smtp://mail.internal:port", "secret": "post"}, "names no server"),
    ],
)
def test_a_secret_is_sent_to_no_other_server_than_the_one_it_is_bound_to(
    premises: Premises, given: dict[str, Any], told: str
) -> None:
    receiver = AlertReceiver.model_validate({"name": "thief", **given})
    with pytest.raises(InvalidInput, match=told):
        notifiers(premises)(receiver)
    with pytest.raises(InvalidInput, match=told):
        _declare(premises, receiver)


def test_a_secret_goes_where_it_is_bound_to(premises: Premises) -> None:
    for url in ("smtp://mail.internal", "smtp://mail.internal:587", "smtps://mail.internal"):
        mail = AlertReceiver.model_validate({"name": "post", **MAIL, "url": url})
        notifiers(premises)(mail)
        _declare(premises, mail)


def test_mail_without_a_user_is_sent_without_a_secret(premises: Premises) -> None:
    nobody = {**MAIL, "user": "", "secret": "post", "url": "smtp://other.internal"}
    notifiers(premises)(AlertReceiver.model_validate({"name": "post", **nobody}))


def test_a_secret_address_is_no_key_for_pagerduty(premises: Premises) -> None:
    with pytest.raises(InvalidInput, match="no integration key") as refused:
        notifiers(premises)(AlertReceiver(name="keys", channel="pagerduty"))
    assert "hooks" not in str(refused.value)


@pytest.mark.parametrize(
    "use",
    [
        {"channel": "email"},
        {"channel": "slack", "host": "hooks.slack.com"},
        {"channel": "email", "host": "https://mail.internal"},
    ],
)
def test_a_bond_that_says_nothing_or_too_much_is_refused(tmp_path: Path, use: Any) -> None:
    with pytest.raises(InvalidInput):
        Settings.read(tmp_path, receivers={"uses": {"post": use}})


def test_doctor_names_the_receivers_that_cannot_be_reached(premises: Premises) -> None:
    _declare(
        premises,
        AlertReceiver(name="inside", channel="alertmanager", url="https://127.0.0.1:9"),
        AlertReceiver(name="lost", channel="pagerduty"),
    )
    # Declared where the secret was not known yet.
    early = AlertReceiver(name="early", channel="alertmanager", url=ELSEWHERE, secret="on_call")
    _declare_alone(premises, early)
    with pytest.raises(Unwell) as found:
        doctors_receivers(premises)
    assert "inside (alertmanager) cannot be reached" in found.value.message
    assert "lost (pagerduty) cannot be reached: The receiver 'lost' has no secret." in (
        found.value.message
    )
    assert "early (alertmanager) cannot be reached: The secret 'on_call' is bound to no" in (
        found.value.message
    )
    assert "crew" not in found.value.message


def test_counters_are_known_by_their_folder_and_not_by_the_machine(premises: Premises) -> None:
    """Two installations on one machine would take each other's counts for their own."""
    _declare_alone(premises, ServiceLevel(name="answers", endpoint="late", objective=0.99))
    operation_chores(premises)["service levels"]()
    with premises.database.reading() as connection:
        (place,) = connection.execute(select(served_marks.c.machine)).scalars()
    assert place == place_of(premises.settings.home / "meters")


def test_a_settings_file_that_holds_a_secret_of_a_receiver_is_refused(tmp_path: Path) -> None:
    (tmp_path / "falaj.toml").write_text('[receivers.secrets]\ncrew = "https://hooks/x"\n')
    with pytest.raises(InvalidInput, match="holds a secret") as refused:
        Settings.read(tmp_path)
    assert "FALAJ_RECEIVERS__SECRETS__CREW" in str(refused.value)
    assert "hooks" not in str(refused.value)


def test_a_secret_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALAJ_RECEIVERS__SECRETS__ON_CALL", "R-from-the-environment")
    settings = Settings.read(tmp_path)
    assert settings.receivers.secret("on_call") == "R-from-the-environment"
    assert "R-from-the-environment" not in repr(settings)

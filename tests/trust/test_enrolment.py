"""From a one-time link to an active account; and what must not work on the way."""

from __future__ import annotations

import pyotp
import pytest
from pydantic import SecretStr

from falaj.kernel.errors import AlreadyExists, Conflict, Forbidden, InvalidInput
from falaj.kernel.ports import Outcome
from falaj.trust.model import (
    ConfirmRequest,
    EnrolRequest,
    Role,
    TooManyAttempts,
    WrongCredentials,
)

GOOD = "seven camels cross the wadi"


def enrol(trust, link: str, name: str = "amina", password: str = GOOD, address=None):
    request = EnrolRequest(secret=SecretStr(link), name=name, password=SecretStr(password))
    return trust.authentication.enrol(request, address=address)


def confirm(trust, offer, code: str | None = None):
    totp = pyotp.TOTP(offer.totp_secret.get_secret_value())
    return trust.authentication.confirm(
        ConfirmRequest(ticket=offer.ticket, code=SecretStr(code or totp.at(trust.now)))
    )


def test_the_first_start_gives_a_link_until_there_is_an_administrator(trust):
    link = trust.first_link()
    assert link is not None
    root = trust.enrolled(link, "root")
    caller = trust.tokens.verify(root.tokens.access_token.get_secret_value(), trust.now)
    assert caller.principal.roles == ("administrator",)
    assert caller.stepped_up(trust.now)
    assert trust.first_link() is None


def test_a_second_start_makes_the_first_link_worthless(trust):
    first, second = trust.first_link(), trust.first_link()
    with pytest.raises(WrongCredentials):
        enrol(trust, first)
    assert enrol(trust, second)


def test_an_enrolment_broken_off_can_be_begun_anew_with_a_new_link(trust):
    enrol(trust, trust.first_link(), name="root")
    assert trust.enrolled(trust.first_link(), "root")


def test_the_link_of_a_first_administrator_is_worthless_once_there_is_one(trust):
    link = trust.first_link()
    trust.person("other", Role.ADMINISTRATOR)
    with pytest.raises(Conflict):
        enrol(trust, link)


def test_a_link_works_once(trust):
    link = trust.invited("amina")
    enrol(trust, link)
    with pytest.raises(WrongCredentials):
        enrol(trust, link)
    assert trust.last_record().outcome is Outcome.REFUSED


def test_a_link_ends_after_a_day(trust):
    link = trust.invited("amina")
    trust.wait(hours=24)
    with pytest.raises(WrongCredentials):
        enrol(trust, link)


def test_a_new_link_for_the_same_person_ends_the_old_one(trust):
    old = trust.invited("amina")
    new = trust.invited("amina", Role.STEWARD)
    with pytest.raises(WrongCredentials):
        enrol(trust, old)
    trust.enrolled(new, "amina")
    with trust.database.reading() as connection:
        assert trust.accounts.get(connection, "amina").roles == (Role.STEWARD,)
    with pytest.raises(AlreadyExists):
        trust.invited("amina")


def test_a_link_for_one_name_does_not_enrol_another(trust):
    link = trust.invited("amina")
    with pytest.raises(InvalidInput):
        enrol(trust, link, name="mallory")
    assert enrol(trust, link, name="amina")


def test_a_weak_password_is_refused_and_leaves_the_link_good(trust):
    link = trust.invited("amina")
    with pytest.raises(InvalidInput):
        enrol(trust, link, password="Password1234!")
    assert enrol(trust, link)


def test_a_ticket_ends_after_a_quarter_of_an_hour(trust):
    offer = enrol(trust, trust.invited("amina"))
    trust.wait(minutes=15)
    with pytest.raises(WrongCredentials):
        confirm(trust, offer)


def test_an_account_is_not_active_before_its_factor_is_confirmed(trust):
    offer = enrol(trust, trust.invited("amina"))
    totp = pyotp.TOTP(offer.totp_secret.get_secret_value())
    with pytest.raises(WrongCredentials):
        trust.login("amina", totp.at(trust.now))
    with pytest.raises(WrongCredentials):
        confirm(trust, offer, "000000")
    assert confirm(trust, offer).tokens is not None
    with pytest.raises(WrongCredentials):
        confirm(trust, offer)


def test_the_code_that_confirmed_is_used_up(trust):
    offer = enrol(trust, trust.invited("amina"))
    code = pyotp.TOTP(offer.totp_secret.get_secret_value()).at(trust.now)
    confirm(trust, offer)
    with pytest.raises(WrongCredentials):
        trust.login("amina", code)


def test_a_link_is_not_a_ticket_nor_a_ticket_a_link(trust):
    link = trust.invited("amina")
    with pytest.raises(WrongCredentials):
        trust.authentication.confirm(
            ConfirmRequest(ticket=SecretStr(link), code=SecretStr("000000"))
        )
    offer = enrol(trust, link)
    with pytest.raises(WrongCredentials):
        enrol(trust, offer.ticket.get_secret_value())


def test_guessing_links_from_one_address_meets_a_wait(trust):
    for number in range(20):
        with pytest.raises(WrongCredentials):
            enrol(trust, f"falaj_link_{number}", address="203.0.113.9")
    with pytest.raises(TooManyAttempts):
        enrol(trust, trust.invited("amina"), address="203.0.113.9")


def test_replacing_a_factor_needs_the_old_one(trust):
    amina = trust.person("amina")
    caller = trust.tokens.verify(amina.tokens.access_token.get_secret_value(), trust.now)
    trust.wait(minutes=6)
    with pytest.raises(Forbidden, match="needs the old one"):
        trust.authentication.offer_factor(caller)
    caller = trust.authentication.step_up(caller, SecretStr(amina.totp.at(trust.now)))
    offer = trust.authentication.offer_factor(caller)
    trust.wait(seconds=30)
    assert trust.login("amina", amina.totp.at(trust.now)).session  # the old one until then
    assert confirm(trust, offer).tokens is None
    trust.wait(seconds=30)
    with pytest.raises(WrongCredentials):
        trust.login("amina", amina.totp.at(trust.now))
    with pytest.raises(WrongCredentials):  # the old recovery codes ended too
        trust.login("amina", amina.recovery[0])


def test_services_get_no_second_factor(trust):
    from falaj.testing.calls import make_caller

    for principal in ("service:ci", "user:nobody", "system:worker"):
        with pytest.raises(Forbidden):
            trust.authentication.offer_factor(make_caller(principal))


def test_an_authenticator_sees_the_platform_and_the_person(trust):
    offer = enrol(trust, trust.invited("amina"))
    uri = offer.otpauth_uri.get_secret_value()
    assert uri.startswith("otpauth://totp/Falaj:amina?secret=")
    assert "issuer=Falaj" in uri

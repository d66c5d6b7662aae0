"""Logging in, stepping up, refreshing; and each way in which a thief tries to."""

from __future__ import annotations

import threading

import pyotp
import pytest
from pydantic import SecretStr

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.errors import Forbidden
from falaj.kernel.ports import Outcome
from falaj.trust.model import (
    InvalidToken,
    RefreshRequest,
    Role,
    ServiceLoginRequest,
    TokenPair,
    TooManyAttempts,
    WrongCredentials,
)


def refreshed(trust, pair: TokenPair) -> TokenPair:
    return trust.authentication.refresh(RefreshRequest(refresh_token=pair.refresh_token))


def access(pair: TokenPair) -> str:
    return pair.access_token.get_secret_value()


def test_a_login_with_all_three_gives_a_caller_who_has_stepped_up(trust):
    amina = trust.person("amina", Role.ML_ENGINEER)
    pair = trust.login("amina", amina.totp.at(trust.now), address="10.0.0.1")
    caller = trust.tokens.verify(access(pair), trust.now)
    assert caller.principal == Principal("user:amina", PrincipalKind.USER, ("ml_engineer",))
    assert caller.stepped_up(trust.now)
    record = trust.last_record()
    assert (record.action, record.outcome, record.principal) == (
        "auth.login",
        Outcome.DONE,
        "user:amina",
    )


def test_names_are_taken_without_regard_to_case_and_blanks(trust):
    amina = trust.person("amina")
    assert trust.login(" Amina ", amina.totp.at(trust.now)).session


@pytest.mark.parametrize(
    ("name", "password", "good_code", "reason"),
    [
        ("amina", "eight camels cross the wadi", True, "wrong-name-or-password"),
        ("nobody", None, True, "wrong-name-or-password"),
        ("amina", None, False, "wrong-code"),
    ],
)
def test_a_wrong_name_password_or_code_gets_the_same_answer(
    trust, name, password, good_code, reason
):
    amina = trust.person("amina")
    code = amina.totp.at(trust.now) if good_code else "000000"
    kwargs = {"password": password} if password else {}
    with pytest.raises(WrongCredentials) as told:
        trust.login(name, code, **kwargs)
    assert told.value.message == "The name, the password or the code is wrong."
    record = trust.last_record()
    assert record.outcome is Outcome.REFUSED
    assert record.reasons == (reason,)
    assert name != "nobody" or "nobody" not in str(record)


def test_a_password_typed_as_a_name_reaches_no_record(trust):
    with pytest.raises(WrongCredentials):
        trust.login(trust_password := "my very secret password", "123456")
    assert all(trust_password not in str(entry) for entry in trust.audit.entries)


def test_a_code_is_good_once(trust):
    amina = trust.person("amina")
    code = amina.totp.at(trust.now)
    trust.login("amina", code)
    with pytest.raises(WrongCredentials):
        trust.login("amina", code)


def test_an_older_code_is_refused_after_a_newer_one(trust):
    amina = trust.person("amina")
    trust.wait(minutes=2)
    older = amina.totp.at(trust.now, counter_offset=-1)
    trust.login("amina", amina.totp.at(trust.now))
    with pytest.raises(WrongCredentials):
        trust.login("amina", older)


@pytest.mark.parametrize(("offset", "good"), [(-2, False), (-1, True), (1, True), (2, False)])
def test_codes_of_the_neighbouring_steps_are_accepted_and_no_others(trust, offset, good):
    amina = trust.person("amina")
    trust.wait(minutes=5)
    code = amina.totp.at(trust.now, counter_offset=offset)
    if good:
        assert trust.login("amina", code).session
    else:
        with pytest.raises(WrongCredentials):
            trust.login("amina", code)


def test_the_same_code_presented_at_once_by_two_is_accepted_once(trust):
    amina = trust.person("amina")
    code = amina.totp.at(trust.now)
    ends: list[str] = []

    def attempt() -> None:
        try:
            trust.login("amina", code)
            ends.append("in")
        except WrongCredentials:
            ends.append("out")

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["in", "out", "out", "out"]


def test_a_recovery_code_stands_in_for_the_factor_once(trust):
    amina = trust.person("amina")
    assert trust.login("amina", amina.recovery[0].upper()).session
    assert trust.last_record().reasons == ("recovery-code",)
    with pytest.raises(WrongCredentials):
        trust.login("amina", amina.recovery[0])
    assert trust.login("amina", amina.recovery[1].replace("-", " ")).session


def test_brute_force_meets_waits_that_double(trust):
    amina = trust.person("amina")
    waits = []
    for _ in range(12):
        while True:
            try:
                trust.login("amina", "000000")
            except TooManyAttempts as told:
                seconds = told.details["retry_after_seconds"]
                waits.append(seconds)
                trust.wait(seconds=seconds)
                continue
            except WrongCredentials:
                break
    assert waits == [2, 3, 5, 9, 17, 33, 65]
    assert amina.name == "amina"


def test_the_right_password_does_not_open_a_locked_account_until_the_wait_is_over(trust):
    amina = trust.person("amina")
    for _ in range(5):
        with pytest.raises(WrongCredentials):
            trust.login("amina", "000000")
    with pytest.raises(TooManyAttempts):
        trust.login("amina", amina.totp.at(trust.now))
    trust.wait(seconds=30)
    assert trust.login("amina", amina.totp.at(trust.now)).session
    with pytest.raises(WrongCredentials):  # a success begins the count anew
        trust.login("amina", "000000")


def test_guesses_at_a_name_that_does_not_exist_are_counted_as_well(trust):
    for _ in range(5):
        with pytest.raises(WrongCredentials):
            trust.login("ghost", "000000")
    with pytest.raises(TooManyAttempts):
        trust.login("ghost", "000000")


def test_one_address_that_guesses_at_many_accounts_has_to_wait(trust):
    for number in range(20):
        with pytest.raises(WrongCredentials):
            trust.login(f"person{number}", "000000", address="203.0.113.9")
    with pytest.raises(TooManyAttempts):
        trust.login("another", "000000", address="203.0.113.9")
    with pytest.raises(WrongCredentials):
        trust.login("another", "000000", address="203.0.113.10")


def test_all_addresses_of_one_ipv6_network_are_one_source(trust):
    for number in range(20):
        with pytest.raises(WrongCredentials):
            trust.login(f"person{number}", "000000", address=f"2001:db8:1:2::{number + 1:x}")
    with pytest.raises(TooManyAttempts):
        trust.login("another", "000000", address="2001:db8:1:2:ffff::1")
    with pytest.raises(WrongCredentials):
        trust.login("another", "000000", address="2001:db8:1:3::1")


def test_a_good_account_does_not_reset_the_count_of_its_address(trust):
    amina = trust.person("amina")
    for number in range(19):
        with pytest.raises(WrongCredentials):
            trust.login(f"person{number}", "000000", address="203.0.113.9")
    trust.login("amina", amina.totp.at(trust.now), address="203.0.113.9")
    with pytest.raises(WrongCredentials):
        trust.login("person20", "000000", address="203.0.113.9")
    with pytest.raises(TooManyAttempts):
        trust.login("person21", "000000", address="203.0.113.9")


def test_attempts_during_a_wait_leave_one_record_not_thousands(trust):
    for _ in range(5):
        with pytest.raises(WrongCredentials):
            trust.login("ghost", "000000")
    before = len(trust.audit.entries)
    for _ in range(10):
        with pytest.raises(TooManyAttempts):
            trust.login("ghost", "000000")
    assert [entry.reasons for entry in trust.audit.entries[before:]] == [("too-many-attempts",)]


def test_when_no_record_can_be_kept_nobody_gets_in(trust):
    amina = trust.person("amina")
    trust.audit.broken = True
    with pytest.raises(Exception, match="audit log"):
        trust.login("amina", amina.totp.at(trust.now))
    trust.audit.broken = False
    with trust.database.reading() as connection:
        account = trust.accounts.get(connection, "amina")
        assert len(trust.sessions.of(connection, account, now=trust.now)) == 1


def test_a_refresh_gives_a_new_pair_and_keeps_the_age_of_the_factor(trust):
    amina = trust.person("amina")
    enrolled_at = trust.tokens.verify(access(amina.tokens), trust.now).mfa_at
    trust.wait(minutes=10)
    pair = refreshed(trust, amina.tokens)
    caller = trust.tokens.verify(access(pair), trust.now)
    assert caller.mfa_at == enrolled_at
    assert not caller.stepped_up(trust.now)
    assert refreshed(trust, pair).session == amina.tokens.session


def test_a_refresh_token_used_twice_ends_the_whole_family(trust):
    amina = trust.person("amina")
    newer = refreshed(trust, amina.tokens)
    with pytest.raises(InvalidToken):
        refreshed(trust, amina.tokens)
    assert trust.last_record().reasons == ("refresh-token-reused",)
    with pytest.raises(InvalidToken):
        refreshed(trust, newer)
    trust.wait(seconds=1)
    with pytest.raises(InvalidToken, match="revoked"):
        trust.tokens.verify(access(newer), trust.now)


def test_an_invented_refresh_token_is_refused(trust):
    with pytest.raises(InvalidToken):
        trust.authentication.refresh(RefreshRequest(refresh_token=SecretStr("falaj_rt_x")))


def test_a_session_ends_when_it_idles_and_at_its_longest(trust):
    amina = trust.person("amina")
    pair = amina.tokens
    for _ in range(20):
        trust.wait(hours=8)
        pair = refreshed(trust, pair)
    trust.wait(hours=8)
    with pytest.raises(InvalidToken):
        refreshed(trust, pair)
    omar = trust.person("omar")
    trust.wait(hours=13)
    with pytest.raises(InvalidToken):
        refreshed(trust, omar.tokens)


def test_a_step_up_makes_a_stale_session_fresh(trust):
    amina = trust.person("amina")
    trust.wait(minutes=10)
    stale = refreshed(trust, amina.tokens)
    code = SecretStr(amina.totp.at(trust.now))
    pair = trust.authentication.step_up_session(access(stale), code)
    assert trust.tokens.verify(access(pair), trust.now).stepped_up(trust.now)
    assert pair.refresh_token is None
    with pytest.raises(WrongCredentials):
        trust.authentication.step_up_session(access(stale), code)
    again = refreshed(trust, stale)
    assert trust.tokens.verify(access(again), trust.now).stepped_up(trust.now)


def test_guessing_codes_with_a_stolen_session_meets_the_waits(trust):
    amina = trust.person("amina")
    for _ in range(5):
        with pytest.raises(WrongCredentials):
            trust.authentication.step_up_session(access(amina.tokens), SecretStr("000000"))
    with pytest.raises(TooManyAttempts):
        trust.authentication.step_up_session(
            access(amina.tokens), SecretStr(amina.totp.at(trust.now))
        )


def test_an_ended_session_does_not_step_up(trust):
    amina = trust.person("amina")
    trust.authentication.logout(access(amina.tokens))
    with pytest.raises(InvalidToken):
        trust.wait(seconds=1)
        trust.authentication.step_up_session(
            access(amina.tokens), SecretStr(amina.totp.at(trust.now))
        )


def test_a_session_that_ended_a_moment_ago_does_not_step_up_either(trust):
    amina = trust.person("amina")
    trust.tokens.verify(access(amina.tokens), trust.now)  # fills the copy of revocations
    trust.authentication.logout(access(amina.tokens))
    with pytest.raises(InvalidToken, match="ended"):
        trust.authentication.step_up_session(
            access(amina.tokens), SecretStr(amina.totp.at(trust.now))
        )


def test_a_service_logs_in_with_its_secret_and_with_nothing_else(trust):
    with trust.database.transaction() as connection:
        _, secret = trust.accounts.create_service(
            connection, name="ci", roles=[Role.SERVICE], created_by="user:root", now=trust.now
        )
    login = trust.authentication.service_login
    pair = login(ServiceLoginRequest(name="ci", secret=SecretStr(secret)))
    caller = trust.tokens.verify(access(pair), trust.now)
    assert caller.principal == Principal("service:ci", PrincipalKind.SERVICE, ("service",))
    assert caller.mfa_at is None
    assert pair.refresh_token is None
    for name, guess in (("ci", secret + "x"), ("c", secret), ("ci", "")):
        with pytest.raises(WrongCredentials):
            login(ServiceLoginRequest(name=name, secret=SecretStr(guess)))
    with pytest.raises(Forbidden):
        trust.authentication.step_up(caller, SecretStr("000000"))


def test_many_programs_behind_one_gateway_do_not_hold_each_other_up(trust):
    with trust.database.transaction() as connection:
        _, secret = trust.accounts.create_service(
            connection, name="ci", roles=[Role.SERVICE], created_by="user:root", now=trust.now
        )
    login = trust.authentication.service_login
    good = ServiceLoginRequest(name="ci", secret=SecretStr(secret))
    for _ in range(30):
        login(good, address="10.0.0.1")
    for _ in range(20):
        with pytest.raises(WrongCredentials):
            login(ServiceLoginRequest(name="ci", secret=SecretStr("guess")), address="10.0.0.9")
    with pytest.raises(TooManyAttempts):
        login(good, address="10.0.0.9")
    assert login(good, address="10.0.0.1").session  # the account itself is not locked


def test_invented_refresh_tokens_from_one_address_meet_a_wait(trust):
    invented = RefreshRequest(refresh_token=SecretStr("falaj_rt_x"))
    for _ in range(20):
        with pytest.raises(InvalidToken):
            trust.authentication.refresh(invented, address="10.0.0.9")
    with pytest.raises(TooManyAttempts):
        trust.authentication.refresh(invented, address="10.0.0.9")


def test_a_person_cannot_log_in_as_a_service_nor_a_service_as_a_person(trust):
    amina = trust.person("amina")
    with pytest.raises(WrongCredentials):
        trust.authentication.service_login(
            ServiceLoginRequest(name="amina", secret=SecretStr("falaj_sk_x"))
        )
    with trust.database.transaction() as connection:
        trust.accounts.create_service(
            connection, name="ci", roles=[Role.SERVICE], created_by="user:root", now=trust.now
        )
    with pytest.raises(WrongCredentials):
        trust.login("ci", amina.totp.at(trust.now))


def test_a_caller_without_a_confirmed_factor_is_told_to_enrol_one(trust):
    stranger = Caller(Principal("user:stranger", PrincipalKind.USER))
    with pytest.raises(Forbidden, match="no second factor"):
        trust.authentication.step_up(stranger, SecretStr("123456"))


def test_a_sealed_factor_moved_to_another_account_does_not_open(trust):
    from sqlalchemy import select, update

    from falaj.kernel.errors import Corrupt
    from falaj.trust.tables import accounts

    mallory = trust.person("mallory")
    trust.person("amina")
    with trust.database.transaction() as connection:
        sealed = connection.execute(
            select(accounts.c.totp_sealed).where(accounts.c.name == "mallory")
        ).scalar_one()
        connection.execute(
            update(accounts).where(accounts.c.name == "amina").values(totp_sealed=sealed)
        )
    with pytest.raises(Corrupt):
        trust.login("amina", mallory.totp.at(trust.now))


def test_no_secret_stands_in_the_database_in_clear(trust):
    from falaj.kernel.database import metadata

    amina = trust.person("amina")
    pair = trust.login("amina", amina.totp.at(trust.now))
    stored = ""
    with trust.database.reading() as connection:
        for table in metadata.sorted_tables:
            stored += str([tuple(row) for row in connection.execute(table.select())])
    assert "argon2id" in stored
    for secret in (
        amina.totp.secret,
        amina.recovery[0],
        amina.recovery[0].replace("-", ""),
        pair.access_token.get_secret_value(),
        pair.refresh_token.get_secret_value(),
        "camels",
    ):
        assert secret not in stored
    assert all(amina.totp.secret not in str(entry) for entry in trust.audit.entries)
    assert isinstance(amina.totp, pyotp.TOTP)

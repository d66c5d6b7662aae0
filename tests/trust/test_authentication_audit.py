"""Exchanges in the real audit log, through the whole life of an account."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_model import AuditRecord
from falaj.trust.authentication import Authentication
from falaj.trust.factors import Factors
from falaj.trust.model import RefreshRequest, WrongCredentials
from falaj.trust.passwords import Passwords


def test_a_life_of_logins_stands_in_the_real_log_in_order(trust):
    log = SqlAuditLog()
    trust.authentication = Authentication(
        trust.database,
        log,
        clock=trust.clock,
        tokens=trust.tokens,
        factors=Factors(trust.keys),
        passwords=Passwords(time_cost=1, memory_kib=64, lanes=1),
    )
    root = trust.enrolled(trust.first_link(), "root", address="10.0.0.7")
    with pytest.raises(WrongCredentials):
        trust.login("root", "000000", address="10.0.0.7")
    pair = trust.login("root", root.totp.at(trust.now), address="10.0.0.7")
    trust.authentication.refresh(RefreshRequest(refresh_token=pair.refresh_token))
    trust.wait(seconds=30)
    trust.authentication.step_up_session(
        pair.access_token.get_secret_value(), SecretStr(root.totp.at(trust.now))
    )
    trust.authentication.logout(pair.access_token.get_secret_value())
    with trust.database.reading() as connection:
        records: list[AuditRecord] = sorted(
            log.search(connection).records, key=lambda record: record.seq
        )
    assert [(record.action, record.outcome.value) for record in records] == [
        ("auth.enrol", "done"),
        ("auth.confirm", "done"),
        ("auth.login", "refused"),
        ("auth.login", "done"),
        ("auth.refresh", "done"),
        ("auth.step_up", "done"),
        ("auth.logout", "done"),
    ]
    assert {record.principal for record in records} == {"user:root"}

"""The actions on accounts, through the door, under the real policy."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from falaj.kernel.call import Caller, PrincipalKind
from falaj.kernel.door import face
from falaj.kernel.errors import (
    AlreadyExists,
    Conflict,
    FalajError,
    Forbidden,
    InvalidInput,
    NotFound,
    StepUpRequired,
)
from falaj.testing.calls import make_caller, make_door
from falaj.trust.model import (
    AccountState,
    InvalidToken,
    RefreshRequest,
    Role,
    ServiceLoginRequest,
    WrongCredentials,
    revealed,
)
from falaj.trust.ownfactors import OwnFactors
from falaj.trust.policy import CedarPolicy
from falaj.trust.service import AccountsService


class Office:
    """The accounts service behind a door, as seen by callers."""

    def __init__(self, trust) -> None:
        self.trust = trust
        parts = trust.authentication
        service = AccountsService(
            trust.accounts, trust.sessions, parts.enrolment, OwnFactors(parts.exchanges)
        )
        self.door = make_door(
            trust.database,
            [service],
            policy=CedarPolicy(AccountsService.actions()),
            audit=trust.audit,
            clock=trust.clock,
        )

    def as_(self, caller: Caller) -> AccountsService:
        return face(AccountsService, self.door.as_(caller))

    def administrator(self, *, stepped_up: bool = True) -> AccountsService:
        mfa_at = self.trust.now if stepped_up else None
        return self.as_(make_caller("user:root", roles=["administrator"], mfa_at=mfa_at))


@pytest.fixture
def office(trust) -> Office:
    return Office(trust)


def token(person) -> str:
    return person.tokens.access_token.get_secret_value()


def test_an_invited_person_enrols_and_has_the_roles(office, trust):
    link = office.administrator().invite("amina", (Role.STEWARD,))
    amina = trust.enrolled(link.secret.get_secret_value(), "amina")
    me = office.as_(trust.tokens.verify(token(amina), trust.now)).me()
    assert (me.principal, me.roles, me.stepped_up) == ("user:amina", ("steward",), True)
    listed = office.administrator().list()
    assert [(a.name, a.state, a.has_factor) for a in listed] == [
        ("amina", AccountState.ACTIVE, True)
    ]


def test_no_secret_reaches_a_record_or_a_kept_answer(office, trust):
    door = office.administrator()
    link = door.invite("amina", (Role.VIEWER,), idempotency_key="k1")
    service = door.create_service("ci", idempotency_key="k2")
    replaced = door.replace_secret("ci", idempotency_key="k3")
    secrets = [item.secret.get_secret_value() for item in (link, service, replaced)]
    assert len(set(secrets)) == 3
    told = str(trust.audit.entries) + repr(link) + link.model_dump_json()
    with trust.database.reading() as connection:
        from falaj.kernel.idempotency import kept_answers

        told += str(connection.execute(kept_answers.select()).all())
    assert not any(secret in told for secret in secrets)
    assert revealed(link)["secret"] == secrets[0]
    again = door.create_service("ci", idempotency_key="k2")
    assert again.secret.get_secret_value() == "(secret)"


def test_granting_needs_a_fresh_factor(office):
    stale = office.administrator(stepped_up=False)
    for attempt in (
        lambda: stale.invite("amina", (Role.VIEWER,)),
        lambda: stale.create_service("ci"),
        lambda: stale.set_roles("amina", (Role.VIEWER,)),
        lambda: stale.deactivate("amina"),
    ):
        with pytest.raises(StepUpRequired):
            attempt()


def test_nobody_gives_roles_to_oneself_not_even_an_administrator(office, trust):
    root = trust.person("root", Role.ADMINISTRATOR)
    door = office.as_(trust.tokens.verify(token(root), trust.now))
    with pytest.raises(FalajError) as told:
        door.set_roles("root", (Role.APPROVER,))
    assert isinstance(told.value, Forbidden | NotFound)
    assert trust.last_record().reasons == ("nobody-grants-to-oneself",)


def test_a_person_without_the_role_neither_grants_nor_lists(office, trust):
    amina = trust.person("amina", Role.ML_ENGINEER, Role.DATA_SCIENTIST)
    door = office.as_(trust.tokens.verify(token(amina), trust.now))
    for attempt in (
        door.list,
        lambda: door.get("amina"),
        lambda: door.set_roles("amina", (Role.ADMINISTRATOR,)),
        lambda: door.invite("friend", (Role.ADMINISTRATOR,)),
        lambda: door.create_service("backdoor"),
        lambda: door.sessions("root"),
    ):
        with pytest.raises((Forbidden, NotFound)):
            attempt()
    assert [session.account for session in door.sessions("amina")] == ["amina"]


def test_a_deactivated_persons_live_token_is_refused_within_a_second(office, trust):
    amina = trust.person("amina")
    processes = [trust.new_process() for _ in range(2)]
    for process in processes:
        process.verify(token(amina), trust.now)
    account = office.administrator().deactivate("amina")
    assert account.state is AccountState.DEACTIVATED
    assert not account.has_password and not account.has_factor
    trust.wait(milliseconds=999)
    for process in processes:
        with pytest.raises(InvalidToken):
            process.verify(token(amina), trust.now)
    with pytest.raises(InvalidToken):
        trust.authentication.refresh(RefreshRequest(refresh_token=amina.tokens.refresh_token))
    trust.wait(seconds=30)
    with pytest.raises(WrongCredentials):
        trust.login("amina", amina.totp.at(trust.now))
    with pytest.raises(AlreadyExists):
        trust.invited("amina")
    with pytest.raises(Conflict):
        office.administrator().set_roles("amina", (Role.VIEWER,))
    assert office.administrator().deactivate("amina") == account


def test_changed_roles_end_old_tokens_and_a_refresh_brings_the_new_ones(office, trust):
    amina = trust.person("amina", Role.ML_ENGINEER)
    trust.tokens.verify(token(amina), trust.now)
    office.administrator().set_roles("amina", (Role.VIEWER,))
    assert trust.last_record().details["roles_before"] == ["ml_engineer"]
    trust.wait(seconds=1)
    with pytest.raises(InvalidToken, match="revoked"):
        trust.tokens.verify(token(amina), trust.now)
    pair = trust.authentication.refresh(RefreshRequest(refresh_token=amina.tokens.refresh_token))
    fresh = trust.tokens.verify(pair.access_token.get_secret_value(), trust.now)
    assert fresh.principal.roles == ("viewer",)


def test_the_last_administrator_stays(office, trust):
    trust.person("only", Role.ADMINISTRATOR)
    for attempt in (
        lambda: office.administrator().deactivate("only"),
        lambda: office.administrator().set_roles("only", (Role.VIEWER,)),
    ):
        with pytest.raises(Conflict, match="last administrator"):
            attempt()
    trust.person("second", Role.ADMINISTRATOR)
    office.administrator().set_roles("only", (Role.VIEWER,))


@pytest.mark.parametrize(
    "roles",
    [(Role.ADMINISTRATOR, Role.APPROVER), (Role.ADMINISTRATOR, Role.AUDITOR), ()],
)
def test_roles_that_control_each_other_are_not_united(office, roles):
    with pytest.raises(InvalidInput):
        office.administrator().invite("amina", roles)
    with pytest.raises(InvalidInput):
        office.administrator().create_service("ci", (Role.APPROVER,))


def test_reserved_and_malformed_names_are_refused(office):
    for name in ("me", "system", "Amina", "a", "../etc", "x y", "a" * 80):
        with pytest.raises(InvalidInput):
            office.administrator().invite(name, (Role.VIEWER,))


def test_a_new_service_secret_ends_the_old_one_and_its_tokens(office, trust):
    door = office.administrator()
    old = door.create_service("ci").secret
    login = trust.authentication.service_login
    pair = login(ServiceLoginRequest(name="ci", secret=old))
    new = door.replace_secret("ci").secret
    trust.wait(seconds=1)
    with pytest.raises(InvalidToken):
        trust.tokens.verify(pair.access_token.get_secret_value(), trust.now)
    with pytest.raises(WrongCredentials):
        login(ServiceLoginRequest(name="ci", secret=old))
    assert login(ServiceLoginRequest(name="ci", secret=new)).session
    trust.person("amina")
    with pytest.raises(Conflict):
        door.replace_secret("amina")


def test_sessions_are_listed_and_ended_one_or_all(office, trust):
    amina, omar = trust.person("amina"), trust.person("omar")
    second = trust.login("amina", amina.totp.at(trust.now))
    door = office.as_(trust.tokens.verify(token(amina), trust.now))
    assert [s.id for s in door.sessions("amina")] == [second.session, amina.tokens.session]
    with pytest.raises(NotFound):
        door.revoke_sessions("amina", session=omar.tokens.session)
    with pytest.raises(NotFound):
        door.revoke_sessions("amina", session="session_none")
    assert door.revoke_sessions("amina", session=second.session) == 1
    assert door.revoke_sessions("amina", session=second.session) == 0
    trust.wait(seconds=1)
    with pytest.raises(InvalidToken):
        trust.tokens.verify(second.access_token.get_secret_value(), trust.now)
    assert trust.tokens.verify(token(amina), trust.now)
    assert office.administrator().revoke_sessions("amina") == 1
    trust.wait(seconds=1)
    with pytest.raises(InvalidToken):
        trust.tokens.verify(token(amina), trust.now)
    assert door.sessions("amina") == ()


def test_a_person_who_lost_everything_enrols_anew(office, trust):
    amina = trust.person("amina", Role.STEWARD)
    link = office.administrator().reset("amina")
    trust.wait(seconds=31)
    with pytest.raises(InvalidToken):
        trust.tokens.verify(token(amina), trust.now)
    with pytest.raises(WrongCredentials):
        trust.login("amina", amina.totp.at(trust.now))
    again = trust.enrolled(link.secret.get_secret_value(), "amina")
    assert trust.tokens.verify(token(again), trust.now).principal.roles == ("steward",)
    with pytest.raises(WrongCredentials):
        trust.login("amina", amina.recovery[0])
    with pytest.raises(Conflict):
        office.administrator().create_service("ci")
        office.administrator().reset("ci")


def test_the_worker_has_no_hand_in_accounts(office):
    worker = office.as_(make_caller("system:worker"))
    with pytest.raises((Forbidden, NotFound)):
        worker.list()
    assert worker.me().kind is PrincipalKind.SYSTEM


def test_a_secret_in_a_request_is_not_shown_by_its_repr():
    request = ServiceLoginRequest(name="ci", secret=SecretStr("falaj_sk_x"))
    assert "falaj_sk_x" not in repr(request) + request.model_dump_json()

"""Attacks through policies of one's own: granting oneself, shutting others out, breaking rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, select

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.errors import Conflict, FalajError, Forbidden, InvalidInput, StepUpRequired
from falaj.kernel.ports import Resource
from falaj.trust.audit_tables import audit_records
from falaj.trust.policy_store import LivePolicy, in_force, put
from falaj.trust.policy_tables import operator_policies
from falaj.wiring.assembly import assemble

EVERYTHING = '@id("mine") permit (principal == User::"user:eve", action, resource);'


def document(text: str, name: str = "mine", **more: Any) -> dict[str, Any]:
    return {"kind": "policy", "name": name, "text": text, **more}


@pytest.fixture
def clean(site: Any) -> Iterator[Any]:
    """The site, without any policy of the operator before and after."""
    yield site
    with site.premises.calls.opened("definitions.apply", "user:cleaner") as call:
        kept = site.premises.definitions.listed(call.connection, kind="policy")
        off = [{**one.document, "enabled": False} for one in kept]
        site.premises.definitions.apply(call, off)
    later(site)


def later(site: Any) -> None:
    """A quarter of a second later."""
    site.premises.policy._fresh_until = 0.0


def propose(site: Any, *documents: dict[str, Any], who: str = "adam", factor: bool = True) -> Any:
    administrator = site.caller("administrator", name=who, factor=factor)
    return site.ask(administrator, "policy.propose", documents=list(documents), reason="why not")


def approve(site: Any, change: str, *, who: str = "anna") -> Any:
    approver = site.caller("approver", name=who, factor=True)
    return site.ask(approver, "changes.approve", id=change, reason="read and understood")


def refusals(site: Any, action: str) -> int:
    with site.premises.database.reading() as connection:
        query = select(audit_records.c.seq).where(
            audit_records.c.action == action, audit_records.c.outcome == "refused"
        )
        return len(connection.execute(query).all())


@pytest.mark.parametrize("role", ["ml_engineer", "steward"])
def test_who_may_declare_things_applies_no_policy(clean: Any, role: str) -> None:
    eve = clean.caller(role, factor=True)
    with pytest.raises(Forbidden, match="proposed"):
        clean.ask(eve, "definitions.apply", documents=[document(EVERYTHING)])
    before = refusals(clean, "policy.propose")
    with pytest.raises(Forbidden):
        clean.ask(eve, "policy.propose", documents=[document(EVERYTHING)], reason="x")
    assert refusals(clean, "policy.propose") == before + 1
    with clean.premises.database.reading() as connection:
        assert in_force(connection) == {}


@pytest.mark.parametrize(
    "role", ["viewer", "data_scientist", "approver", "operator", "auditor", "service"]
)
def test_nobody_but_an_administrator_proposes_policies(clean: Any, role: str) -> None:
    with pytest.raises(Forbidden):
        clean.ask(
            clean.caller(role, factor=True),
            "policy.propose",
            documents=[document(EVERYTHING)],
            reason="x",
        )


def test_an_administrator_needs_a_fresh_factor_to_propose(clean: Any) -> None:
    with pytest.raises(StepUpRequired):
        propose(clean, document(EVERYTHING), factor=False)


def test_an_administrator_grants_nothing_to_the_own_self_alone(clean: Any) -> None:
    change = propose(clean, document(EVERYTHING.replace("eve", "adam")), who="adam")
    both = clean.caller("administrator", "approver", name="adam", factor=True)
    before = refusals(clean, "changes.approve")
    with pytest.raises(FalajError):
        clean.ask(both, "changes.approve", id=change.id, reason="mine")
    assert refusals(clean, "changes.approve") == before + 1
    with clean.premises.database.reading() as connection:
        assert in_force(connection) == {}
    later(clean)
    adam = clean.caller("administrator", name="adam", factor=True)
    with pytest.raises(FalajError):
        clean.ask(adam, "runs.start", experiment="x")


def test_what_another_approved_is_in_force_and_what_is_forbidden_stays_so(clean: Any) -> None:
    change = propose(clean, document(EVERYTHING))
    approve(clean, change.id)
    later(clean)
    eve = clean.caller(name="eve")
    assert clean.ask(eve, "runs.start", experiment="by-policy").experiment == "by-policy"
    # The built-in forbids outweigh it: no role for oneself, no own change, no stale factor.
    fresh = clean.caller(name="eve", factor=True)
    for action, arguments in (
        ("accounts.set_roles", {"name": "eve", "roles": ["administrator"]}),
        ("keys.rotate", {"purpose": "audit"}),
    ):
        with pytest.raises(FalajError):
            clean.ask(eve, action, **arguments)
    with pytest.raises(Forbidden):
        clean.ask(fresh, "accounts.set_roles", name="eve", roles=["administrator"])
    mine = clean.ask(fresh, "policy.propose", documents=[document("// x\n" + EVERYTHING)],
                     reason="more")  # fmt: skip
    with pytest.raises(Forbidden):
        clean.ask(fresh, "changes.approve", id=mine.id, reason="mine")
    approver = clean.caller("approver", name="anna", factor=True)
    clean.ask(approver, "changes.reject", id=mine.id, reason="no")


def test_a_disabled_policy_is_out_of_force(clean: Any) -> None:
    approve(clean, propose(clean, document(EVERYTHING)).id)
    approve(clean, propose(clean, document(EVERYTHING, enabled=False)).id)
    later(clean)
    with pytest.raises(FalajError):
        clean.ask(clean.caller(name="eve"), "runs.start", experiment="x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("permit (principal, action, resource", "parse"),
        ('@id("x") permit (principal, action == Action::"no.such", resource);', "schema"),
        ('@id("x") permit (principal, action, resource) when { resource.salary > 1 };', "schema"),
        ('@id("x") permit (principal == ?principal, action, resource);', "template"),
        ("permit (principal, action, resource);", "@id"),
        ('@id("viewer-reads") permit (principal, action, resource);', "twice"),
        ('@id("x") permit (principal, action, resource) when { resource.owner == "a" };', "schema"),
    ],
)
def test_a_policy_that_would_fail_is_refused_when_it_is_planned(
    clean: Any, text: str, said: str
) -> None:
    administrator = clean.caller("administrator", factor=True)
    with pytest.raises(InvalidInput, match=said):
        clean.ask(administrator, "policy.plan", documents=[document(text)])
    with pytest.raises(InvalidInput, match=said):
        propose(clean, document(text))


@pytest.mark.parametrize(
    "text",
    [
        '@id("all") forbid (principal, action, resource);',
        '@id("adm") forbid (principal in Role::"administrator", action, resource);',
        '@id("prop") forbid (principal, action == Action::"policy.propose", resource);',
        '@id("appr") forbid (principal, action in Action::"approve", resource);',
        '@id("way") forbid (principal, action in Action::"administer", resource) '
        'when { ["http", "local"].contains(context.via) };',
        '@id("age") forbid (principal, action in Action::"administer", resource) '
        "unless { context has mfa_seconds && context.mfa_seconds < 60 };",
    ],
)
def test_a_policy_that_locks_everybody_out_is_refused_when_it_is_planned(
    clean: Any, text: str
) -> None:
    with pytest.raises(InvalidInput, match="nobody could"):
        propose(clean, document(text))


def test_two_policies_that_lock_out_together_are_refused(clean: Any) -> None:
    only = '@id("{0}") forbid (principal, action in Action::"administer", resource) when {{ {1} }};'
    approve(clean, propose(clean, document(only.format("web", 'context.via == "http"'), "web")).id)
    later(clean)
    second = document(only.format("near", 'context.via != "http"'), "near")
    with pytest.raises(Forbidden):  # the first is in force: not through HTTP
        propose(clean, second)
    near = replace(clean.caller("administrator", factor=True), via="local")
    with pytest.raises(InvalidInput, match="nobody could"):
        clean.ask(near, "policy.propose", documents=[second], reason="why not")


def test_what_was_approved_is_what_was_proposed(clean: Any) -> None:
    first = propose(clean, document(EVERYTHING))
    other = propose(clean, document(EVERYTHING.replace("eve", "omar")), who="ali")
    approve(clean, other.id)
    with pytest.raises(Conflict, match="changed since"):
        approve(clean, first.id)


def test_a_policy_is_in_force_in_another_process_within_a_second(clean: Any) -> None:
    other = assemble(clean.premises.settings, process="other")
    try:
        eve = Caller(Principal("user:eve", PrincipalKind.USER))
        start = other.backend.services.actions["runs.start"]
        ask = lambda: other.policy.decide(  # noqa: E731
            eve, start.name, Resource(start.resource({})), stepped_up=False
        )
        assert not ask().allowed
        looks: list[int] = []
        look = other.policy.look
        other.policy.look = lambda: (looks.append(1), look())[1]  # type: ignore[method-assign]
        approve(clean, propose(clean, document(EVERYTHING)).id)
        assert other.policy._fresh_seconds <= 0.5
        other.policy._fresh_until = 0.0  # that long later
        assert ask().allowed
        assert ask().reasons == ("mine",)
        assert looks == [1]
    finally:
        other.close()


def test_a_process_that_cannot_look_decides_nothing(clean: Any, tmp_path: Any) -> None:
    from falaj.kernel.database import Database
    from falaj.kernel.errors import Unavailable

    actions = clean.premises.backend.services.actions.values()
    blind = LivePolicy(actions, Database(f"sqlite:///{tmp_path / 'gone.db'}"))
    amina = Caller(Principal("user:amina", PrincipalKind.USER, ("administrator",)))
    about = Resource(next(iter(actions)).resource({}))
    with pytest.raises(Unavailable):
        blind.decide(amina, "accounts.me", about, stepped_up=True)


def test_a_stored_policy_that_fails_opens_no_door(clean: Any) -> None:
    """Whoever owns the database writes rubbish in the place of a forbid."""
    from falaj.kernel.errors import Unavailable

    premises = clean.premises
    with premises.database.transaction() as connection:
        put(connection, "broken", "forbid (principal, action, resource", now=premises.clock.now())
    premises.policy._fresh_until = 0.0
    try:
        with pytest.raises(Unavailable, match="cannot be put in force"):
            clean.ask(clean.caller("viewer"), "assets.search")
    finally:
        with premises.database.transaction() as connection:
            connection.execute(delete(operator_policies))
            put(connection, "broken", None, now=premises.clock.now())
        premises.policy._fresh_until = 0.0


@pytest.mark.parametrize("role", ["viewer", "ml_engineer", "approver"])
def test_what_others_may_do_is_told_to_administrators_and_auditors_alone(
    clean: Any, role: str
) -> None:
    asked = {"who": "user:owner", "action": "models.promote", "what": "platform:*"}
    with pytest.raises(FalajError):
        clean.ask(clean.caller(role), "policy.why", **asked)
    for teller in ("auditor", "administrator"):
        assert clean.ask(clean.caller(teller), "policy.why", **asked).roles

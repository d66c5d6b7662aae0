"""What policies were asked is kept, and other policies are asked it again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from falaj.kernel.actions import Action, Service, action
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.ports import Resource
from falaj.trust.policy import CedarPolicy
from falaj.trust.policy_questions import Questions, compared, keep
from falaj.trust.policy_tables import policy_questions

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FORBID = '@id("no") forbid (principal == User::"user:ida", action, resource);'


class Models(Service):
    """Models."""

    name = "models"

    @action(post="/models/{name}", on="model")
    def register(self, name: str) -> None:
        """Register a model."""

    @action(get="/models/{name}", on="model")
    def get(self, name: str) -> None:
        """One model."""


ACTIONS: list[Action] = list(Models.actions())


@pytest.fixture
def policy() -> CedarPolicy:
    return CedarPolicy(ACTIONS)


def ask(policy: CedarPolicy, who: str, verb: str = "register", model: str = "late") -> bool:
    kind = PrincipalKind(who.partition(":")[0])
    caller = Caller(Principal(who, kind, ("ml_engineer",)))
    about = Resource(AssetRef("model", model), {"owner": "user:omar"})
    return policy.decide(caller, f"models.{verb}", about, stepped_up=False).allowed


def test_each_distinct_question_is_given_once(policy: CedarPolicy) -> None:
    for _ in range(3):
        ask(policy, "user:ida")
    ask(policy, "user:omar")
    assert [one[0] for one in policy.new_questions()] == ["user:ida", "user:omar"]
    assert policy.new_questions() == []
    ask(policy, "user:ida", "get")
    assert [one[2] for one in policy.new_questions()] == ["models.get"]


def test_a_memory_that_was_emptied_loses_no_later_question(
    policy: CedarPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falaj.trust.policy._MOST_KEPT", 2)
    for model in "abc":
        ask(policy, "user:ida", model=model)
        policy.new_questions()
    ask(policy, "user:ida", model="d")
    assert "d" in {one[4] for one in policy.new_questions()}


def test_a_question_of_no_action_is_not_kept(policy: CedarPolicy) -> None:
    ask(policy, "user:ida", "abolish")
    assert policy.new_questions() == []


def test_other_policies_are_compared_on_what_was_asked(
    policy: CedarPolicy, database: Database
) -> None:
    questions = Questions(policy, database, SetClock(NOW), start=lambda _: None)
    for who in ("user:ida", "user:omar", "user:ida"):
        ask(policy, who)
    ask(policy, "user:ida", "get")
    questions.flush()
    questions.flush()
    with database.reading() as connection:
        other = policy.with_added({"no": FORBID})
        found = compared(connection, policy, other, now=NOW)
    assert (found.n_questions, found.n_differences) == (3, 2)
    assert [(one.who, one.action, one.before, one.after) for one in found.differences] == [
        ("user:ida", "models.get", True, False),
        ("user:ida", "models.register", True, False),
    ]
    assert found.differences[0].reasons == ("no",)


def test_questions_are_kept_for_thirty_days(policy: CedarPolicy, database: Database) -> None:
    ask(policy, "user:ida")
    (question,) = policy.new_questions()
    with database.transaction() as connection:
        keep(connection, [question, question], NOW)
        keep(connection, [question], NOW + timedelta(days=20))
        keep(connection, [], NOW + timedelta(days=40))
        days = connection.execute(select(policy_questions.c.day)).scalars().all()
    assert len(days) == 1
    with database.reading() as connection:
        later = NOW + timedelta(days=40)
        assert compared(connection, policy, policy, now=later, days=30).n_questions == 1
        assert compared(connection, policy, policy, now=later, days=5).n_questions == 0


def test_closing_writes_what_is_new(policy: CedarPolicy, database: Database) -> None:
    questions = Questions(policy, database, SetClock(NOW))
    ask(policy, "user:ida")
    questions.close()
    with database.reading() as connection:
        assert len(connection.execute(select(policy_questions)).all()) == 1

"""Who belongs to which team, and which requests the queue takes."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import insert

from falaj.kernel.errors import Forbidden, InvalidInput
from falaj.kernel.resources import GIB, Resources
from falaj.kernel.settings_queue import QueueSettings, TeamRule
from falaj.testing.calls import opened_call
from falaj.training.costs.budgets import Budgets, BudgetSpent
from falaj.training.costs.queueing import RunQueue
from falaj.training.costs.teams import Teams
from falaj.training.model import TrainingRequest
from falaj.trust.provisioning_tables import (
    provisioned_groups,
    provisioned_members,
    provisioned_users,
)
from falaj.trust.tables import accounts

NOW = datetime(2026, 11, 1, tzinfo=UTC)
RULES = (
    TeamRule(name="fraud", members=("user:amina", "group:Fraud analytics"), max_cpus=4),
    TeamRule(name="late", members=("user:amina",), money_per_month=Decimal(0)),
)


@pytest.fixture
def queue(books):
    settings = QueueSettings(teams=RULES, cpus=2, memory_bytes=GIB)
    budgets = Budgets(settings, books.ledger, books.clock)
    return RunQueue(settings, Teams(settings), budgets)


def claim(books, queue, who="user:amina", *, at_once=1, **asked):
    request = TrainingRequest(model="late", training_set="ts_1", **asked)
    with opened_call(books.database, who) as call:
        return queue.claim(call, request, at_once=at_once)


def in_group(database, name, group):
    about = {"version": 1, "created_at": NOW, "modified_at": NOW}
    with database.transaction() as connection:
        connection.execute(
            insert(accounts).values(
                id=f"id-{name}", name=name, kind="user", state="active", roles=[], epoch=0,
                totp_last_step=0, created_at=NOW, created_by="user:omar",
            )
        )  # fmt: skip
        connection.execute(
            insert(provisioned_users).values(
                account=f"id-{name}", provisioner="service:idp", user_name=name,
                user_name_key=name, personal=[], **about,
            )
        )  # fmt: skip
        connection.execute(
            insert(provisioned_groups).values(
                id="group-1", provisioner="service:idp", display_name=group,
                display_name_key=group.lower(), **about,
            )
        )  # fmt: skip
        connection.execute(
            insert(provisioned_members).values(group_id="group-1", account=f"id-{name}")
        )


def test_a_request_belongs_to_the_first_team_of_its_submitter(books, queue):
    found = claim(books, queue, priority=80)
    assert (found.team, found.priority) == ("fraud", 80)
    assert found.resources == Resources(cpus=2, memory_bytes=GIB)
    assert claim(books, queue, "user:omar").team == "everyone"


def test_a_member_of_a_provisioned_group_is_of_its_team(books, queue):
    in_group(books.database, "salma", "Fraud analytics")
    assert claim(books, queue, "user:salma").team == "fraud"
    assert claim(books, queue, "service:salma").team == "everyone"


def test_nobody_uses_the_share_of_a_team_that_is_not_theirs(books, queue):
    assert claim(books, queue, team="everyone").team == "everyone"
    with pytest.raises(Forbidden, match="is not of the team 'fraud'"):
        claim(books, queue, "user:omar", team="fraud")


def test_a_team_without_money_submits_nothing(books, queue):
    with pytest.raises(BudgetSpent, match="has no money of 2026-11"):
        claim(books, queue, team="late")


def test_no_request_asks_for_more_time_than_a_run_may_take(books):
    settings = QueueSettings(most_seconds=60)
    queue = RunQueue(settings, Teams(settings), Budgets(settings, books.ledger, books.clock))
    assert claim(books, queue).resources.seconds == 60
    for seconds in (61, None):
        with pytest.raises(InvalidInput, match="longer than 60 s"):
            claim(books, queue, resources={"seconds": seconds})


def test_fits_that_run_side_by_side_are_all_claimed(books, queue):
    found = claim(books, queue, resources={"cpus": 2}, at_once=3)
    assert found.resources.cpu_thousandths == 6000


def test_quotas_are_those_of_the_settings():
    teams = Teams(QueueSettings(teams=RULES))
    assert teams.quota("fraud").max_cpu_thousandths == 4000
    assert teams.quota("unknown").max_cpu_thousandths is None
    assert teams.names() == ["fraud", "late", "everyone"]


def test_two_teams_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two teams have the name"):
        QueueSettings(teams=(TeamRule(name="a"), TeamRule(name="a")))

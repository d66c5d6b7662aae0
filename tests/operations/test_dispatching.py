"""Grouping, deduplication, inhibition, repetition and escalation, as laws."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.operations.dispatching import Group, Message, Standing, dispatched, inhibited
from falaj.operations.routing import AlertRoute, Escalation, InhibitRule, Matcher

AT = datetime(2026, 11, 30, tzinfo=UTC)


def _route(**given: Any) -> AlertRoute:
    fields = {"name": "all", "receiver": "crew", "group_by": ("team",), **given}
    return AlertRoute.model_validate(fields)


def _alert(name: str, **labels: str) -> Standing:
    return Standing(name, {"alertname": name, "severity": "warning", **labels})


class Told:
    """Runs turns and remembers what was told."""

    def __init__(self, *routes: AlertRoute, rules: tuple[InhibitRule, ...] = ()) -> None:
        self.routes, self.rules = routes, rules
        self.groups: dict[str, Group] = {}
        self.at = AT

    def turn(self, seconds: float, *alerts: Standing) -> list[Message]:
        self.at += timedelta(seconds=seconds)
        self.groups, messages = dispatched(self.groups, alerts, self.routes, self.rules, self.at)
        again, nothing = dispatched(self.groups, alerts, self.routes, self.rules, self.at)
        assert (again, nothing) == (self.groups, []), "the same turn again says nothing"
        return messages


def test_a_new_group_waits_and_is_told_once_with_all_its_alerts() -> None:
    told = Told(_route(group_wait_seconds=30))
    one, two = _alert("a", team="x"), _alert("b", team="x")
    assert told.turn(0, one) == []
    assert told.turn(29, one, two) == []
    (message,) = told.turn(1, one, two)
    assert (message.status, message.firing, message.receiver) == ("firing", ("a", "b"), "crew")
    assert message.labels == {"team": "x"}
    assert told.turn(300, one, two) == []


def test_an_alert_that_ends_while_its_group_waits_is_never_told() -> None:
    told = Told(_route())
    assert told.turn(0, _alert("a")) == []
    assert told.turn(30) == []
    assert told.groups == {}


def test_a_new_alert_of_a_told_group_waits_for_the_group_interval() -> None:
    told = Told(_route(group_wait_seconds=0, group_interval_seconds=300))
    one, two = _alert("a"), _alert("b")
    assert len(told.turn(0, one)) == 1
    assert told.turn(299, one, two) == []
    (message,) = told.turn(1, one, two)
    assert set(message.firing) == {"a", "b"}


def test_the_end_of_all_is_told_once_and_the_group_is_forgotten() -> None:
    told = Told(_route(group_wait_seconds=0, group_interval_seconds=60))
    told.turn(0, _alert("a"), _alert("b"))
    (some,) = told.turn(60, _alert("b"))
    assert (some.status, some.firing, set(some.resolved)) == ("firing", ("b",), {"a"})
    (end,) = told.turn(60)
    assert (end.status, end.firing, set(end.resolved)) == ("resolved", (), {"b"})
    assert told.groups == {}


def test_without_news_a_group_is_told_again_after_the_repeat_interval() -> None:
    told = Told(
        _route(group_wait_seconds=0, group_interval_seconds=60, repeat_interval_seconds=600)
    )
    one = _alert("a")
    told.turn(0, one)
    times = [n for n in range(1, 31) if told.turn(60, one)]
    assert times == [10, 20, 30]


def test_an_acknowledgement_is_told_once_and_ends_repetition() -> None:
    told = Told(_route(group_wait_seconds=0, group_interval_seconds=60, repeat_interval_seconds=60))
    one = _alert("a")
    told.turn(0, one)
    (message,) = told.turn(60, replace(one, acknowledged=True))
    assert message.status == "acknowledged"
    assert all(told.turn(60, replace(one, acknowledged=True)) == [] for _ in range(5))
    (end,) = told.turn(60)
    assert end.status == "resolved"


def test_an_alert_that_becomes_more_severe_is_news() -> None:
    told = Told(_route(group_wait_seconds=0, group_interval_seconds=60))
    told.turn(0, _alert("a"))
    (message,) = told.turn(60, _alert("a", severity="critical"))
    assert (message.status, message.firing) == ("firing", ("a",))


def test_a_silenced_alert_is_not_told_until_the_silence_ends() -> None:
    told = Told(_route(group_wait_seconds=10))
    one = _alert("a")
    assert told.turn(0, replace(one, silenced=True)) == []
    assert told.turn(1000, replace(one, silenced=True)) == []
    assert told.turn(0, one) == []
    assert len(told.turn(10, one)) == 1


def test_what_was_told_and_ends_under_a_silence_is_told_to_have_ended() -> None:
    told = Told(_route(group_wait_seconds=0, group_interval_seconds=60))
    one = _alert("a")
    told.turn(0, one)
    assert told.turn(60, replace(one, silenced=True)) == []
    (end,) = told.turn(60)
    assert (end.status, set(end.resolved)) == ("resolved", {"a"})


def test_nobody_acknowledges_and_the_next_receiver_is_told() -> None:
    steps = (
        Escalation(after_minutes=10, receiver="lead"),
        Escalation(after_minutes=5, receiver="boss"),
    )
    told = Told(_route(group_wait_seconds=0, group_interval_seconds=60, escalation=steps))
    one = _alert("a")
    reached = {m.receiver: n for n in range(20) for m in told.turn(60 if n else 0, one)}
    assert reached == {"crew": 0, "lead": 10, "boss": 15}
    assert {m.receiver for m in told.turn(60)} == {"crew", "lead", "boss"}, "all hear of the end"


def test_an_acknowledged_alert_is_not_escalated() -> None:
    steps = (Escalation(after_minutes=10, receiver="lead"),)
    told = Told(_route(group_wait_seconds=0, group_interval_seconds=60, escalation=steps))
    one = _alert("a")
    told.turn(0, one)
    said = [m for _ in range(30) for m in told.turn(60, replace(one, acknowledged=True))]
    assert [(m.receiver, m.status) for m in said] == [("crew", "acknowledged")]


def test_the_first_route_that_fits_takes_an_alert_unless_it_goes_on() -> None:
    first = _route(name="first", order=1, continues=True, receiver="one", group_wait_seconds=0)
    second = _route(name="second", order=2, receiver="two", group_wait_seconds=0)
    third = _route(name="third", order=3, receiver="three", group_wait_seconds=0)
    told = Told(third, second, first)
    assert [m.receiver for m in told.turn(0, _alert("a"))] == ["one", "two"]


def test_a_route_that_is_taken_away_ends_what_it_told() -> None:
    told = Told(_route(group_wait_seconds=0))
    told.turn(0, _alert("a"))
    told.routes = ()
    (end,) = told.turn(1, _alert("a"))
    assert end.status == "resolved"
    assert told.groups == {}


SEVERE, MILD = (
    Matcher(label="severity", value="critical"),
    Matcher(label="severity", value="warning"),
)


def test_a_source_keeps_targets_with_equal_labels_quiet() -> None:
    rule = InhibitRule(
        name="r", source_matchers=(SEVERE,), target_matchers=(MILD,), equal=("team",)
    )
    told = Told(_route(group_wait_seconds=0, group_by=("alertname",)), rules=(rule,))
    source = _alert("down", severity="critical", team="x")
    messages = told.turn(0, source, _alert("slow", team="x"), _alert("other", team="y"))
    assert {m.firing for m in messages} == {("down",), ("other",)}
    assert {m.firing for m in told.turn(1, _alert("slow", team="x"))} >= {("slow",)}


_LABELS = st.dictionaries(st.sampled_from(["p", "q", "team"]), st.sampled_from(["", "1", "2"]))
_ALERTS = st.lists(_LABELS, max_size=6).map(
    lambda found: [Standing(f"a{n}", labels) for n, labels in enumerate(found)]
)
_MATCHER = st.builds(
    Matcher,
    label=st.sampled_from(["p", "q"]),
    op=st.sampled_from(["=", "!=", "=~", "!~"]),
    value=st.sampled_from(["", "1", "2", "1|2"]),
)
_RULE = st.builds(
    InhibitRule,
    name=st.just("r"),
    source_matchers=st.tuples(_MATCHER),
    target_matchers=st.tuples(_MATCHER),
    equal=st.sampled_from([(), ("team",), ("p", "team")]),
)


@settings(max_examples=150)
@given(_ALERTS, st.lists(_RULE, max_size=3))
def test_the_fast_inhibition_is_that_of_the_definition(
    alerts: list[Standing], rules: list[InhibitRule]
) -> None:
    slow = {
        target.id
        for target in alerts
        if any(r.inhibits(source.labels, target.labels) for r in rules for source in alerts)
    }
    assert inhibited(alerts, rules) == slow


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 20, 70, 400]),
            st.sets(st.sampled_from(["a", "b", "c", "d"])),
            st.sets(st.sampled_from(["a", "b", "c", "d"])),
        ),
        max_size=25,
    )
)
def test_whatever_happens_a_receiver_knows_in_the_end_what_stands(
    history: list[tuple[int, set[str], set[str]]],
) -> None:
    """Every told alert is told to have ended, once; nothing is told twice without its interval;
    an alert stands in one group."""
    route = _route(group_wait_seconds=30, group_interval_seconds=60, repeat_interval_seconds=600)
    told = Told(route)
    known: dict[str, datetime] = {}
    last: dict[str, datetime] = {}
    calm = [(70, set(), set())] * 3
    for seconds, standing, silenced in [*history, *calm]:
        alerts = [
            replace(_alert(one, team=(one in "ab" and "x") or "y"), silenced=one in silenced)
            for one in sorted(standing)
        ]
        messages = told.turn(seconds, *alerts)
        assert len({m.group for m in messages}) == len(messages)
        for message in messages:
            news = set(message.firing) - set(known) or message.resolved
            due = last.get(message.group, AT - timedelta(days=1)) + route.repeat_interval
            assert news or told.at >= due, "without news only after the repeat interval"
            assert told.at >= last.get(message.group, AT) + timedelta(0)
            assert not set(message.firing) & silenced, "what is silenced is not told"
            assert set(message.resolved) <= set(known), "only what was told can end"
            assert not set(message.resolved) & standing, "what stands has not ended"
            for one in message.resolved:
                del known[one]
            known |= dict.fromkeys(message.firing, told.at)
            last[message.group] = told.at
    assert known == {}, "all is over, and was told to be"
    assert told.groups == {}

"""Searches on SQLite and PostgreSQL against a naive filter, page by page, and who sees what."""

import math
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput
from falaj.testing.calls import opened_call
from falaj.training.model import DatasetInput, MetricPoint, RunState, Stage
from falaj.training.tracking.experiments import Experiments
from falaj.training.tracking.filters import Kind, read_filter, read_order
from falaj.training.tracking.searching import (
    ExperimentQuestion,
    ExperimentSearch,
    RunQuestion,
    RunSearch,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
TEXTS = ["a", "A", "b", "ab", "aB%", "a_b", "a*b", "[a]", "é", "É", "ß", "", "x'y", "\\"]
NUMBERS = [0.0, 1.0, -1.5, 2.0, math.nan, math.inf, -math.inf, 1e-300]
KEYS = ["m", "n o", "p.q"]
ALL = RunSearch(lambda _call, _resource: True, lambda _call: False)

texts = st.sampled_from(TEXTS)
a_run = st.fixed_dictionaries(
    {
        "name": texts.filter(bool),
        "state": st.sampled_from(list(RunState)),
        "params": st.dictionaries(st.sampled_from(KEYS), texts, max_size=2),
        "tags": st.dictionaries(st.sampled_from(KEYS), texts, max_size=2),
        "metrics": st.dictionaries(st.sampled_from(KEYS), st.sampled_from(NUMBERS), max_size=3),
        "dataset": st.none() | st.tuples(texts.filter(bool), st.sampled_from(["train", "a_b"])),
        "start": st.integers(0, 3),
    }
)


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


patterns = st.lists(st.sampled_from([*TEXTS, "%", "_"]), max_size=3).map("".join)
textual = st.one_of(
    st.tuples(st.sampled_from(["=", "!="]), texts.map(quoted)),
    st.tuples(st.sampled_from(["LIKE", "ILIKE", "like"]), patterns.map(quoted)),
    st.tuples(
        st.sampled_from(["IN", "NOT IN"]),
        st.lists(texts, min_size=1, max_size=3).map(
            lambda some: "(" + ", ".join(map(quoted, some)) + ")"
        ),
    ),
).map(" ".join)
numeric = st.tuples(
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    st.sampled_from(["0", "1", "-1.5", "2", "1e-300", "1e999", ".5"]),
).map(" ".join)
keys = st.sampled_from(KEYS).map(lambda key: f"`{key}`")
clauses = st.one_of(
    st.tuples(st.sampled_from(["metrics", "metric"]), keys, numeric),
    st.tuples(
        st.sampled_from(["params", "tags"]),
        keys,
        textual | st.sampled_from(["IS NULL", "IS NOT NULL"]),
    ),
    st.tuples(st.just("datasets"), st.sampled_from(["name", "context"]), textual),
    st.tuples(st.just("attributes"), st.just("run_name"), textual),
    st.tuples(
        st.just("attributes"), st.just("status"), st.sampled_from(["= 'RUNNING'", "!= 'failed'"])
    ),
    st.tuples(st.just("attributes"), st.just("start_time"), numeric),
).map(lambda parts: f"{parts[0]}.{parts[1]} {parts[2]}")
filters = st.lists(clauses, max_size=3).map(" AND ".join)
orders = st.lists(
    st.tuples(
        st.sampled_from(
            ["metrics.m", "metrics.`n o`", "params.m", "tags.m", "run_name", "start_time",
             "status", "end_time"]
        ),
        st.sampled_from(["", " ASC", " DESC"]),
    ).map("".join),
    max_size=2,
    unique_by=lambda text: text.split(" ")[0],
)  # fmt: skip


def like(text, pattern):
    """True if a text fits a pattern; the long way."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(like(text[place:], pattern[1:]) for place in range(len(text) + 1))
    return bool(text) and pattern[0] in ("_", text[0]) and like(text[1:], pattern[1:])


def small(text):
    return "".join(chr(ord(one) + 32) if "A" <= one <= "Z" else one for one in text)


def fits(held, clause):
    """Whether a value fits a clause; a value that is not there fits only ``IS NULL``."""
    wanted, operator = clause.value, clause.operator
    if operator in ("IS NULL", "IS NOT NULL"):
        return (held is None) == (operator == "IS NULL")
    if held is None:
        return False
    return {
        "=": lambda: held == wanted, "!=": lambda: held != wanted,
        "<": lambda: held < wanted, "<=": lambda: held <= wanted,
        ">": lambda: held > wanted, ">=": lambda: held >= wanted,
        "IN": lambda: held in wanted, "NOT IN": lambda: held not in wanted,
        "LIKE": lambda: like(held, wanted), "ILIKE": lambda: like(small(held), small(wanted)),
    }[operator]()  # fmt: skip


def held(run, kind, key):
    """What a run holds of a kind under a key, or None."""
    if kind is Kind.METRIC:
        return run.metrics.get(key)
    if kind is Kind.PARAM:
        return run.params.get(key)
    if kind is Kind.TAG:
        return run.tags.get(key)
    return {
        "run_name": run.name,
        "status": run.state.value.upper(),
        "start_time": microseconds(run.started_at) // 1000,
        "end_time": run.ended_at and microseconds(run.ended_at) // 1000,
    }[key]


def naive(runs, question):
    """The names of runs that fit, in order: all of it in Python."""
    found = []
    for run in runs:
        for clause in read_filter(question.filter):
            if clause.kind is Kind.DATASET:
                values = [getattr(one, clause.key) for one in run.datasets]
                if not any(fits(value, clause) for value in values):
                    break
            else:
                value = held(run, clause.kind, clause.key)
                if clause.key == "status":
                    clause = type(clause)(*(clause.kind, clause.key, clause.operator,
                                            clause.value.upper()))  # fmt: skip
                if not fits(value, clause):
                    break
        else:
            found.append(run)
    found.sort(key=lambda run: run.id)
    found.sort(key=lambda run: run.started_at, reverse=True)
    for order in reversed(read_order(question.order_by)):

        def rank(run, order=order):
            value = held(run, order.kind, order.key)
            return 2 if value is None else 1 if value != value else 0

        there = [run for run in found if rank(run) == 0]
        there.sort(key=lambda run, order=order: held(run, order.kind, order.key),
                   reverse=not order.ascending)  # fmt: skip
        found = (
            there
            + [run for run in found if rank(run) == 1]
            + [run for run in found if rank(run) == 2]
        )
    return [run.id for run in found]


def fill(runs, call, experiment, described):
    """Runs as they are described; gives them as they are read."""
    made = []
    for one in described:
        run = runs.start(
            call, experiment=experiment, name=one["name"], params=one["params"], tags=one["tags"],
            started_at=AT + timedelta(milliseconds=one["start"]), open_ended=True,
        )  # fmt: skip
        points = [MetricPoint(key=key, value=value) for key, value in one["metrics"].items()]
        runs.log(call, run.id, metrics=points)
        if one["dataset"]:
            name, context = one["dataset"]
            dataset = DatasetInput(name=name, digest="d", tags={"mlflow.data.context": context})
            runs.add_inputs(call, run.id, datasets=[dataset])
        if one["state"] is not RunState.RUNNING:
            runs.update(call, run.id, state=one["state"], ended_at=AT + timedelta(days=1))
        made.append(runs.get(call.connection, run.id))
    return made


def paged(search, call, question, limit):
    """The ids of all pages, one after the other."""
    found, page = [], None
    while True:
        answer = search.page(call, question, limit=limit, page=page)
        assert len(answer.runs) <= limit
        found += [run.id for run in answer.runs]
        page = answer.next_page
        if page is None:
            return found


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(a_run, min_size=1, max_size=6),
    st.lists(st.tuples(filters, orders), min_size=1, max_size=6),
    st.integers(1, 4),
)
def test_a_search_finds_what_a_naive_filter_finds_in_its_order(
    runs, database, described, questions, limit
):
    with opened_call(database) as call:
        experiment = runs.experiments_kept.create(call, f"e-{call.id}").id
        made = fill(runs, call, experiment, described)
        for text, order in questions:
            question = RunQuestion(filter=text, order_by=tuple(order), experiments=(experiment,))
            expected = naive(made, question)
            assert paged(ALL, call, question, limit) == expected, question
            assert paged(ALL, call, question, 100) == expected, question


def test_who_may_not_see_a_run_does_not_find_it_and_pages_stay_full(runs, database):
    with opened_call(database) as call:
        made = [runs.start(call, experiment="late").id for _ in range(20)]
        for run in made[::2]:
            Catalog().record(call, AssetRef("run", run), classification="personal")
        asked = []

        def visible(_call, resource):
            asked.append(resource)
            return "classification" not in resource.attributes

        seen = RunSearch(visible, lambda _call: False)
        question = RunQuestion(order_by=("start_time ASC", "run_id ASC"))
        page = seen.page(call, question, limit=4)
        assert [run.id for run in page.runs] == sorted(made[1::2])[:4]
        assert sorted(paged(seen, call, question, 4)) == sorted(made[1::2])
        # The policy is asked once for each set of attributes, not for each run.
        asked.clear()
        paged(seen, call, question, 100)
        assert len(asked) == 2
        # Unless a policy tells runs apart.
        asked.clear()
        paged(RunSearch(visible, lambda _call: True), call, question, 100)
        assert len(asked) == 20


def test_a_run_that_begins_between_two_pages_moves_nothing(runs, sqlite_database):
    with opened_call(sqlite_database) as call:
        made = [runs.start(call, experiment="late").id for _ in range(6)]
        question = RunQuestion()
        first = ALL.page(call, question, limit=3)
    with opened_call(sqlite_database, now=call.now + timedelta(seconds=1)) as later:
        time.sleep(0.002)  # ids tell milliseconds apart
        runs.start(later, experiment="late")
        second = ALL.page(later, question, limit=100, page=first.next_page)
    assert sorted(run.id for run in (*first.runs, *second.runs)) == sorted(made)


def test_an_experiment_that_is_made_between_two_pages_moves_nothing(runs, database):
    experiments = runs.experiments_kept
    search = ExperimentSearch(experiments, lambda _call, _resource: True, lambda _call: False)
    with opened_call(database) as call:
        made = [experiments.ensured(call, name).id for name in "abcdef"]
        first = search.page(call, ExperimentQuestion(), limit=3)
    with opened_call(database, now=call.now + timedelta(seconds=1)) as later:
        time.sleep(0.002)  # ids tell milliseconds apart
        experiments.ensured(later, "new")
        second = search.page(later, ExperimentQuestion(), limit=100, page=first.next_page)
        anew = search.page(later, ExperimentQuestion(), limit=1)
    found = [one.id for one in (*first.experiments, *second.experiments)]
    assert len(found) == 6
    assert sorted(found) == sorted(made)
    assert [one.name for one in anew.experiments] == ["new"]


def test_a_token_is_good_for_its_question_its_caller_and_its_day(runs, sqlite_database):
    question = RunQuestion()
    with opened_call(sqlite_database) as call:
        for _ in range(3):
            runs.start(call, experiment="late")
        token = ALL.page(call, question, limit=1).next_page
        assert len(ALL.page(call, question, limit=1, page=token).runs) == 1
        with pytest.raises(InvalidInput, match="another search"):
            ALL.page(call, RunQuestion(filter="metrics.m > 0"), limit=1, page=token)
        for wrong in ("x", "e30=", token[:-3], token + "AAAA", "[" * 4000):
            with pytest.raises(InvalidInput, match="page token"):
                ALL.page(call, question, limit=1, page=wrong)
    with (
        opened_call(sqlite_database, "user:omar") as other,
        pytest.raises(InvalidInput, match="another search"),
    ):
        ALL.page(other, question, limit=1, page=token)
    with (
        opened_call(sqlite_database, now=call.now + timedelta(days=2)) as late,
        pytest.raises(InvalidInput, match="too old"),
    ):
        ALL.page(late, question, limit=1, page=token)


def test_experiments_are_searched_by_name_tag_and_time(database):
    experiments = Experiments(Catalog())
    search = ExperimentSearch(experiments, lambda _call, _resource: True, lambda _call: False)

    def names(call, text="", order=(), **more):
        question = ExperimentQuestion(filter=text, order_by=tuple(order), **more)
        return [one.name for one in search.page(call, question, limit=100).experiments]

    with opened_call(database) as call:
        for name, team in (("late", "delays"), ("Lost", "bags"), ("early", None)):
            tags = {"team": team} if team else {}
            made = experiments.create(call, name, tags=tags)
        experiments.create(call, "late", workspace="risk")
        assert sorted(names(call)) == ["Lost", "early", "late"]
        assert names(call, "name LIKE 'L%'") == ["Lost"]
        assert names(call, "name ILIKE 'l%'", ["name ASC"]) == ["Lost", "late"]
        assert names(call, "tags.team = 'delays'") == ["late"]
        assert names(call, "tags.team IS NULL") == ["early"]
        assert names(call, f"experiment_id = '{made.id}'") == ["early"]
        assert names(call, "creation_time > 0", ["name DESC"]) == ["late", "early", "Lost"]
        assert names(call, workspace="risk") == ["late"]
        experiments.delete(call, made.id)
        assert "early" not in names(call)
        assert names(call, stage=Stage.DELETED) == ["early"]
        with pytest.raises(InvalidInput, match="metrics"):
            names(call, "metrics.m > 0")
        first = search.page(call, ExperimentQuestion(), limit=1)
        second = search.page(call, ExperimentQuestion(), limit=1, page=first.next_page)
        assert second.next_page is None
        assert {first.experiments[0].name, second.experiments[0].name} == {"late", "Lost"}

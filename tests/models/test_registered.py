"""Descriptions, tags, aliases, deletion and history of models and versions."""

import importlib.util
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from falaj.kernel.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from falaj.models.aliases import AliasGuarded, AliasUnjudged
from falaj.models.histories import history
from falaj.models.model import ModelPolicy, NotAdopted, Stage
from falaj.models.registered import At

_PATH = Path(__file__).with_name("registered.py")
_SPEC = importlib.util.spec_from_file_location("models_registered", _PATH)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = ModelPolicy(name="late", feature_service="delays", label="late")


@pytest.fixture
def kept(database):
    return _MODULE.Registered(database)


@pytest.fixture
def quick(sqlite_database):
    return _MODULE.Registered(sqlite_database)


def model(kept, name="late"):
    with kept.database.reading() as connection:
        return kept.registry.model(connection, name)


def version(kept, number, name="late"):
    with kept.database.reading() as connection:
        return kept.registry.version(connection, name, number)


def alias(kept, alias, number, now=None, by="user:amina", reason="", name="late"):
    with kept.call(by, now=now) as call:
        if number is None:
            kept.parts.aliases.remove(call, name, alias, reason)
        else:
            kept.parts.aliases.set(call, name, alias, number, reason)


def then(kept, at, name="late"):
    with kept.database.reading() as connection:
        return history(connection, kept.registry, name, at)


def test_a_model_stands_there_before_its_first_version(quick):
    quick.made("late", description="Late departures.", tags={"team": "risk"})
    found = model(quick)
    assert (found.latest, found.description, found.tags) == (
        0,
        "Late departures.",
        {"team": "risk"},
    )
    with quick.database.reading() as connection:
        assert quick.registry.versions(connection, "late") == []
    with quick.call() as call, pytest.raises(AlreadyExists):
        quick.parts.descriptions.create(call, "late")


def test_tags_of_a_model_and_of_its_versions_are_kept_apart_and_replaced(kept):
    kept.made("late", 2, tags={"a": "1"})
    with kept.call() as call:
        kept.parts.descriptions.tag(call, "late", {"a": "2", "b/c.d": "ملف"})
        kept.parts.descriptions.tag_version(call, "late", 2, {"a": "of two"})
        kept.parts.descriptions.describe_version(call, "late", 2, "The second.")
        kept.parts.descriptions.untag(call, "late", ["none"])
    assert model(kept).tags == {"a": "2", "b/c.d": "ملف"}
    assert (version(kept, 1).tags, version(kept, 2).tags) == ({}, {"a": "of two"})
    assert version(kept, 2).description == "The second."
    with kept.call() as call:
        kept.parts.descriptions.untag(call, "late", ["a"])
        kept.parts.descriptions.untag_version(call, "late", 2, ["a"])
    assert (model(kept).tags, version(kept, 2).tags) == ({"b/c.d": "ملف"}, {})


@pytest.mark.parametrize(
    "tags",
    [{"": "x"}, {"k" * 251: "x"}, {"k": "x" * 100_001}, {"k": "\0"}, {"\0": "v"},
     {"k": "\ud800"}, {str(n): "" for n in range(101)}],
)  # fmt: skip
def test_a_tag_that_no_database_can_hold_is_refused(quick, tags):
    quick.made("late", 1)
    for write in (
        lambda call: quick.parts.descriptions.tag(call, "late", tags),
        lambda call: quick.parts.descriptions.tag_version(call, "late", 1, tags),
    ):
        with quick.call() as call, pytest.raises(InvalidInput):
            write(call)


def test_an_alias_moves_and_each_move_says_who_when_and_why(kept):
    kept.made("late", 2)
    alias(kept, "blue", 1, NOW, reason="the first")
    alias(kept, "blue", 1, NOW + timedelta(hours=1), reason="again")
    alias(kept, "blue", 2, NOW + timedelta(days=1), by="user:omar", reason="it is better")
    alias(kept, "blue", None, NOW + timedelta(days=2), reason="no more")
    moves = then(kept, NOW + timedelta(days=9)).alias_moves
    assert [(one.from_version, one.to_version, one.asked_by, one.reason) for one in moves] == [
        (2, None, "user:amina", "no more"),
        (1, 2, "user:omar", "it is better"),
        (None, 1, "user:amina", "the first"),
    ]
    assert then(kept, NOW + timedelta(hours=5)).aliases == {"blue": 1}
    assert then(kept, NOW + timedelta(days=1)).aliases == {"blue": 2}
    assert then(kept, NOW - timedelta(days=1)).aliases == {}
    with kept.database.reading() as connection, pytest.raises(NotFound, match="no alias 'blue'"):
        kept.parts.aliases.resolve(connection, "late", "blue")


def test_an_alias_that_many_move_at_once_ends_at_one_and_no_move_is_lost(kept):
    kept.made("late", 4)
    together = [threading.Thread(target=alias, args=(kept, "blue", n)) for n in (1, 2, 3, 4)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    moves = list(reversed(then(kept, datetime.now(UTC) + timedelta(minutes=1)).alias_moves))
    assert sorted(one.to_version for one in moves) == [1, 2, 3, 4]
    chain = {one.from_version: one.to_version for one in moves}
    place, seen = None, []
    while place in chain:
        place = chain[place]
        seen.append(place)
    assert len(seen) == 4
    assert model(kept).aliases == {"blue": seen[-1]}


@pytest.mark.parametrize("word", ["latest", "LATEST", "v1", "V20"])
def test_an_alias_that_means_something_else_already_is_refused(quick, word):
    quick.made("late", 1)
    with pytest.raises(InvalidInput, match="cannot be an alias"):
        alias(quick, word, 1)


def test_an_alias_points_at_nothing_that_is_not_there(quick):
    quick.made("late", 1)
    with pytest.raises(NotFound):
        alias(quick, "blue", 2)
    with pytest.raises(NotFound):
        alias(quick, "blue", 1, name="early")


@pytest.mark.parametrize("word", ["champion", "Champion", "PRODUCTION"])
def test_a_guarded_alias_neither_moves_nor_goes_without_an_approval(quick, word):
    quick.made("late", 1)
    alias(quick, word, 1)  # nothing judges the model yet, and nothing can serve it
    with quick.call() as call:
        quick.definitions.apply(call, [POLICY])
    for number in (1, None):
        with pytest.raises(AliasGuarded, match="another person's approval"):
            alias(quick, word, number)
    with quick.call() as call, pytest.raises(NotAdopted):
        quick.parts.aliases.propose(call, "late", "champion2", 1, "now")
    with quick.call() as call, pytest.raises(AliasGuarded):
        quick.parts.deletions.version(call, "late", 1, "old")
    with quick.call("user:amina") as call:
        change = quick.parts.aliases.propose(call, "late", word, None, "nobody needs it")
    assert model(quick).aliases == {word: 1}
    with quick.call("user:omar") as call:
        quick.changes.approve(call, change.id, "fine")
    assert model(quick).aliases == {}
    move = then(quick, datetime.now(UTC)).alias_moves[0]
    assert (move.asked_by, move.approved_by, move.change) == ("user:amina", "user:omar", change.id)


def test_an_alias_that_became_guarded_is_resolved_when_a_change_has_judged_it(quick, monkeypatch):
    quick.made("late", 2)
    alias(quick, "champion", 1)
    alias(quick, "blue", 1)

    def resolved(word):
        with quick.database.reading() as connection:
            return quick.parts.aliases.resolve(connection, "late", word).version

    assert resolved("champion") == 1
    with quick.call() as call:
        quick.definitions.apply(call, [POLICY])
    assert resolved("blue") == 1
    with pytest.raises(AliasUnjudged, match="nobody has judged") as refused:
        resolved("champion")
    assert "falaj models propose-alias late --alias champion --version 1" in refused.value.hint
    with quick.call() as call, pytest.raises(NotAdopted):  # what no gate has seen stays refused
        quick.parts.aliases.propose(call, "late", "champion", 1, "it is good")
    judge = lambda call, model, number: (version(quick, number) if number else None, None)  # noqa: E731
    monkeypatch.setattr(quick.parts.aliases, "_judged", judge)
    monkeypatch.setattr(quick.promotions, "evidence", lambda *_given: {})
    with quick.call("user:amina") as call:
        change = quick.parts.aliases.propose(call, "late", "champion", 1, "it is good")
    with quick.call("user:omar") as call:
        quick.changes.approve(call, change.id, "fine")
    assert resolved("champion") == 1
    move = then(quick, datetime.now(UTC)).alias_moves[0]
    assert (move.from_version, move.to_version, move.change) == (1, 1, change.id)
    with quick.call() as call, pytest.raises(Conflict, match="already"):
        quick.parts.aliases.propose(call, "late", "champion", 1, "again")


def test_a_policy_may_guard_other_aliases_and_keeps_its_fingerprint_with_the_usual_ones(quick):
    quick.made("late", 1)
    usual = ModelPolicy(name="late", feature_service="delays", label="late")
    assert "guarded_aliases" not in usual.document()
    own = usual.model_copy(update={"guarded_aliases": ("live",)})
    with quick.call() as call:
        quick.definitions.apply(call, [own])
    alias(quick, "champion", 1)
    with pytest.raises(AliasGuarded):
        alias(quick, "live", 1)


def test_a_deleted_version_is_gone_but_its_number_and_history_stay(kept):
    kept.made("late", 2)
    alias(kept, "blue", 2, NOW)
    with kept.call("user:omar", now=NOW + timedelta(days=1)) as call:
        kept.parts.deletions.version(call, "late", 2, "it was wrong")
    with pytest.raises(NotFound):
        version(kept, 2)
    assert model(kept).aliases == {}
    found = then(kept, NOW + timedelta(days=2))
    (deleted,) = found.deletions
    assert (deleted.version, deleted.by, deleted.reason) == (2, "user:omar", "it was wrong")
    assert found.aliases == {}
    assert then(kept, NOW).aliases == {"blue": 2}
    with kept.call() as call:
        again = kept.parts.mlflow.register(
            call, "late", source="mlflow-artifacts:/1/run_1/artifacts/model"
        )
    assert again.version == 3


def test_a_deleted_model_comes_back_empty_and_goes_on_counting(quick):
    quick.made("late", 2, description="It.", tags={"a": "b"})
    alias(quick, "blue", 1)
    with quick.call() as call:
        quick.parts.deletions.model(call, "late", "over")
    with pytest.raises(NotFound):
        model(quick)
    with quick.call() as call, pytest.raises(NotFound):
        quick.parts.descriptions.tag(call, "late", {"a": "b"})
    quick.made("late", 1)
    found = model(quick)
    assert (found.description, found.tags, found.aliases, found.latest) == ("", {}, {}, 3)
    assert len(then(quick, datetime.now(UTC)).deletions) == 2


def test_what_stands_in_a_guarded_stage_is_not_deleted(quick):
    quick.made("late", 2)
    with quick.call() as call:
        quick.registry.version_changed(call, version(quick, 1), stage=Stage.STAGING)
    for delete in (
        lambda call: quick.parts.deletions.version(call, "late", 1, "old"),
        lambda call: quick.parts.deletions.model(call, "late", "old"),
    ):
        with quick.call() as call, pytest.raises(Conflict, match="stands in staging"):
            delete(call)
    assert version(quick, 2).stage is Stage.DEVELOPMENT


def test_a_version_without_a_bundle_is_neither_judged_nor_promoted(quick):
    quick.made("late", 1)
    with quick.call() as call:
        quick.definitions.apply(call, [POLICY])
    for to in (Stage.STAGING, Stage.PRODUCTION):
        with quick.call() as call, pytest.raises(NotAdopted, match="falaj models adopt late 1"):
            quick.promotions.ask(call, "late", 1, to, "now")


@pytest.mark.parametrize(
    "source",
    ["/etc/passwd", "file:///etc/passwd", "s3://bucket/model", "https://evil.example/m",
     "mlflow-artifacts:/1/run_1/artifacts/../../2/run_2/artifacts/m", "mlflow-artifacts:/1/run_1",
     "mlflow-artifacts:/1/run_1/artifacts/a//b", "mlflow-artifacts:/1/run_1/artifacts/%2e%2e/x",
     "mlflow-artifacts:/1/run_1/artifacts/a\\b", "mlflow-artifacts:/1/run_1/artifacts/./a",
     "mlflow-artifacts://host/1/run_1/artifacts/a", "models:/late", "models:/late@blue",
     "models:/late/0x1", "", "x" * 2_000, "mlflow-artifacts:/1/run_1/artifacts/\0"],
)  # fmt: skip
def test_a_source_that_is_no_folder_of_artifacts_here_is_refused(quick, source):
    quick.made("late")
    with quick.call() as call, pytest.raises(InvalidInput, match="Invalid model version source"):
        quick.parts.mlflow.register(call, "late", source=source)


def test_a_run_that_a_caller_may_not_see_gives_no_version(quick):
    quick.made("late")
    source = "mlflow-artifacts:/1/run_1/artifacts/model"
    quick.hidden.add("run:run_1")
    told = []
    for run in ("run_1", "run_2"):
        with quick.call() as call, pytest.raises(NotFound) as found:
            quick.parts.mlflow.register(call, "late", source=source.replace("run_1", run))
        told.append(str(found.value).replace(run, "RUN"))
    assert told[0] == told[1]
    with quick.call() as call, pytest.raises(InvalidInput, match="not of the run"):
        quick.parts.mlflow.register(call, "late", source=source, run="run_2")


def test_a_version_is_made_from_a_version_of_another_model(quick):
    quick.made("late", 1)
    quick.made("early")
    with quick.call() as call:
        copied = quick.parts.mlflow.register(call, "early", source="models:/late/1")
    assert (copied.version, copied.source) == (1, version(quick, 1).source)
    quick.hidden.add("model_version:late/1")
    with quick.call() as call, pytest.raises(NotFound):
        quick.parts.mlflow.register(call, "early", source="models:/late/1")


def test_a_day_stands_for_its_first_instant():
    from pydantic import TypeAdapter

    read = TypeAdapter(At).validate_python
    assert read("2026-01-01") == NOW
    assert read("2026-01-01T03:00:00+03:00") == NOW

"""The prediction log of endpoints about persons, on its way into the lake."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from falaj.features.model import Entity, Feature, FeatureService, FeatureView
from falaj.features.plan import ServicePlan
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.personal import PersonalGroup, PersonalRule
from falaj.lake.sealedcolumns import SubjectLake
from falaj.serving.logged import LoggedRun, PackedRecords, columnar, encoded
from falaj.serving.model import (
    AnomalyPolicy,
    Endpoint,
    FieldType,
    Release,
    RequestField,
    Variant,
)
from falaj.serving.personallog import PERSONAL, rule_for, rule_of_scoring
from falaj.serving.spools import DirectorySpools, PredictionDrain
from falaj.serving.subjects import subject_of
from falaj.testing.features import GivenDefinitions, MemoryLake
from falaj.testing.streams import TestKeys
from falaj.testing.subjectkeys import MemorySubjectKeys
from falaj.trust.subjects import Subject

NOW = datetime.now(UTC)
TABLE = "predictions_late"
FIELDS = {"release_1": ("card", "holder")}


def run(*cards, release="release_1", at=NOW, numbers=False):
    """A run that scored a row for each card."""
    n = len(cards)
    matrix = np.arange(n, dtype=np.float32)
    rows, names, values = [{"card": card, "amount": 4000.5} for card in cards], (), b""
    if numbers:
        rows, names = (), ("card", "amount")
        values = np.array([[card, 4000.5] for card in cards], np.float64).tobytes()
    return LoggedRun(
        "late", release, "champion", "delay", 1, microseconds(at), microseconds(at),
        [f"pred_{release}_{place}" for place in range(n)], [n], [None], ["someone"], [10],
        [str(card) for card in cards], rows, 1, matrix.tobytes(), None, None, 1,
        matrix.astype(np.float64).tobytes(), names, values,
    )  # fmt: skip


class Log:
    """A spool with its drain, over a lake in memory."""

    def __init__(self, folder):
        self.keys = MemorySubjectKeys()
        self.lake = MemoryLake()
        self.spools = DirectorySpools(folder, TestKeys())
        self.drain = PredictionDrain(folder, TestKeys(), self.lake, FIELDS.get, subjects=self.keys)
        self.n_kept = 0

    def keep(self, *runs):
        """What the log writer does."""
        data = PackedRecords([encoded(one) for one in runs])
        self.n_kept += 1
        self.spools.open(TABLE).keep(data, data.size, f"ring-{self.n_kept}")

    def rows(self):
        return self.lake.scan(TABLE).to_pylist()


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "spool")


def test_each_row_names_the_person_whom_it_is_about_and_the_lake_is_told_to_seal_it(log):
    log.keep(run("4711", "4712"), run(None))
    assert log.drain.run_once() == 3
    assert [row["subject"] for row in log.rows()] == ["4711", "4712", None]
    rule = log.lake.rule(TABLE)
    assert rule == rule_for(TABLE, "holder")
    assert rule.groups[0].columns == PERSONAL
    assert set(rule.groups[0].sealed) <= set(log.rows()[0])


def test_rows_that_came_as_numbers_or_as_columns_name_the_same_person(log):
    log.keep(run(4711, numbers=True), run(4711))
    spool = log.spools.open(TABLE)
    spool.append(columnar([run(4711)]))
    spool.flush()
    log.drain.run_once()
    assert [row["subject"] for row in log.rows()] == ["4711"] * 3


def test_a_log_about_nobody_is_as_it_was_and_may_become_one_about_persons(log):
    log.keep(run("4711", release="release_0"))
    log.drain.run_once()
    assert log.lake.rule(TABLE) is None
    assert "subject" not in log.rows()[0]
    log.keep(run("4712"))
    log.keep(run("4713", release="release_0"))
    log.drain.run_once()
    assert [row["subject"] for row in log.rows()] == [None, "4712", None]


def test_a_log_that_an_older_version_began_learns_that_tags_are_personal_too(log):
    older = PersonalGroup(subject="subject", kind="holder", columns=("unit", "fields", "score"))
    log.lake.record_rule(PersonalRule(table=TABLE, groups=(older,)))
    log.keep(run("4711"))
    log.drain.run_once()
    (group,) = log.lake.rule(TABLE).groups
    assert set(group.columns) == set(PERSONAL)
    assert {"anomaly_score", "anomalous"} <= set(group.columns)


def test_what_waits_is_counted_and_moved_without_what_it_says_of_an_erased_person(log):
    log.keep(run("4711", "4712"))
    (key, _) = log.keys.of([Subject("holder", "4711"), Subject("holder", "4712")], make=True)
    assert log.drain.count(key) == {TABLE: 1}
    log.keys.destroy(key.subject)
    assert log.drain.forget(key) == 1
    assert (log.drain.count(key), log.drain.forget(key)) == ({}, 0)
    erased, other = log.rows()
    assert {erased[name] for name in ("subject", *PERSONAL) if name != "features"} == {None}
    assert (erased["features"], erased["prediction_id"]) == (None, "pred_release_1_0")
    assert (other["subject"], other["unit"], other["score"]) == ("4712", "4712", 1.0)


def test_a_prediction_from_before_an_erasure_makes_nobody_a_new_key(log):
    log.keys.of([Subject("holder", "4711")], make=True)
    log.keys.destroy(Subject("holder", "4711"))
    log.keep(run("4711"), run("4711", at=NOW + timedelta(hours=1)))
    log.drain.run_once()
    assert [row["subject"] for row in log.rows()] == [None, "4711"]
    assert log.keys.of([Subject("holder", "4711")], make=False) == [None]


def view(name, key, kind="person"):
    entity = Entity(name=f"of_{name}", keys={key: "string"})
    made = FeatureView(
        name=name, entity=entity, source="payments", event_time="at", subject=key,
        subject_kind=kind, features=[Feature("amount", "float64")],
    )  # fmt: skip
    return entity, made


def features_of(*parts):
    views = [made for _, made in parts]
    service = FeatureService(name="all", features=views)
    plan = ServicePlan.of(service, GivenDefinitions(*(x for part in parts for x in part), service))
    return {"definitions": plan.documents()}


def fields(**types):
    return [RequestField(name=name, type=FieldType(kind)) for name, kind in types.items()]


class ErasingLake(SubjectLake):
    """Somebody is erased just before the first rows are written."""

    def __init__(self, inner, keys, erased):
        super().__init__(inner, keys)
        self.keys, self.waiting = keys, [erased]

    def append_many(self, rows, **how):
        if self.waiting:
            self.keys.destroy(self.waiting.pop())
        return super().append_many(rows, **how)


def test_a_prediction_that_was_read_before_an_erasure_makes_nobody_a_new_key(log, tmp_path):
    people = [Subject("holder", "4711"), Subject("holder", "4712")]
    log.keys.of(people, make=True)
    lake = ErasingLake(DuckLake.in_folder(tmp_path / "lake", threads=1), log.keys, people[0])
    log.drain = PredictionDrain(tmp_path / "spool", TestKeys(), lake, FIELDS.get, subjects=log.keys)
    log.keep(run("4711", "4712"))
    assert log.drain.run_once() == 2
    assert log.keys.of(people, make=False)[0] is None
    assert sorted(lake.scan(TABLE)["unit"].to_pylist(), key=str) == ["4712", None]
    lake.close()


def test_an_endpoint_is_about_whom_its_views_are_about_or_it_says_so_itself():
    endpoint = Endpoint(name="late", model="delay")
    card, payee = view("balance", "card", "holder"), view("other", "payee")
    asked = fields(card="string", payee="string", amount="float")
    assert subject_of(endpoint, None, asked) == (None, "person")
    assert subject_of(endpoint, features_of(card), asked) == ("card", "holder")
    with pytest.raises(InvalidInput, match="several persons"):
        subject_of(endpoint, features_of(card, payee), asked)
    own = Endpoint(name="late", model="delay", subject="payee", subject_kind="shop")
    assert subject_of(own, features_of(card, payee), asked) == ("payee", "shop")
    wrong = Endpoint(name="late", model="delay", subject="amount")
    with pytest.raises(InvalidInput, match="no request field of text"):
        subject_of(wrong, None, asked)


def test_an_endpoint_without_a_subject_is_declared_as_it_was():
    assert "subject" not in Endpoint(name="late", model="delay").document()
    assert Endpoint(name="late", model="delay", subject="card").document()["subject"] == "card"


def test_the_output_of_a_scoring_is_sealed_if_it_names_the_person():
    release = Release(
        id="release_1", endpoint="late", subject="card", subject_kind="holder",
        variants=(Variant(model="delay", version=1, bundle="sha256:a"),),
        created_at=NOW, created_by="user_1",
    )  # fmt: skip
    rule = rule_of_scoring("scores", ("card", "shop"), release)
    assert rule.groups[0].sealed == ("card", "shop", "score", "error")
    assert rule.groups[0].kind == "holder"
    assert rule_of_scoring("scores", ("shop",), release) is None
    tagged = release.model_copy(update={"anomalies": AnomalyPolicy.TAG})
    rule = rule_of_scoring("scores", ("card",), tagged)
    assert rule.groups[0].sealed == ("card", "score", "anomaly_score", "anomalous", "error")
    nobody = release.model_copy(update={"subject": None})
    assert rule_of_scoring("scores", ("card",), nobody) is None


def test_columns_of_the_log_stand_where_they_stood(log):
    log.keep(run("4711"))
    log.drain.run_once()
    assert log.lake.scan(TABLE).schema.field("features").type == pa.list_(pa.float32())

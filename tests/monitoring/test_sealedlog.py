"""The log of an endpoint that is about persons: sealed, and assessed as any other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from tests.monitoring.assessed import ENCODING, MONDAY, drawn, labels_of, log_of

from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.lake.personal import record_rule
from falaj.lake.sealedcolumns import SubjectLake
from falaj.models.reference import statistics_of
from falaj.monitoring.drift import Drift
from falaj.monitoring.fairness import Fairness
from falaj.monitoring.joined import Inputs, Joins
from falaj.monitoring.model import Labels
from falaj.monitoring.performance import Performance
from falaj.monitoring.performancewords import Slice
from falaj.serving.personallog import rule_for
from falaj.testing.serving import make_release
from falaj.testing.subjectkeys import MemorySubjectKeys
from falaj.trust.subjects import Subject

UNTIL = MONDAY + timedelta(days=1)
LABELS = Labels(table="outcomes", label="delayed")
INPUTS = Inputs("delay", 1, ENCODING)
PEOPLE = 10


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SubjectLake]:
    folder: Path = tmp_path_factory.mktemp("sealed")
    keys = MemorySubjectKeys()
    lake = SubjectLake(DuckLake.in_folder(folder, threads=1), keys)
    record_rule(lake, rule_for("predictions_delays", "person"))
    data = drawn()
    rows = log_of(data).slice(0, 600)
    people = pa.array([f"p{i % PEOPLE}" for i in range(600)])
    lake.append("predictions_delays", rows.append_column("subject", people))
    lake.append("outcomes", labels_of(data))
    lake.keys = keys
    yield lake
    lake.close()


def test_a_sealed_log_is_sliced_by_fields_and_inputs(sealed: SubjectLake) -> None:
    performance = Performance(sealed, lambda _endpoint: INPUTS)
    report = performance.report(
        "delays", LABELS, MONDAY, UNTIL, by="day",
        slices=(Slice(by="channel"), Slice(by="kind", of="input")),
    )  # fmt: skip
    assert report.n_labels == 600
    by_field, by_input = report.slices[:2], report.slices[2:]
    assert [one.n_labels for one in by_field] == [one.n_labels for one in by_input]
    _, inputs = Joins(sealed).sampled(
        "delays", LABELS, MONDAY, UNTIL, "day", ("delay", 1), most=100
    )
    assert inputs.shape == (100, 2)


def test_a_sealed_log_is_sampled(sealed: SubjectLake) -> None:
    random = np.random.default_rng(0)
    seen = statistics_of(ENCODING, np.zeros((50, 2), np.float32), random.uniform(size=50))
    bundle = SimpleNamespace(statistics=seen, manifest=SimpleNamespace(importance={}))
    drift = Drift(sealed, SimpleNamespace(open_bundle=lambda _: bundle))  # type: ignore[arg-type]
    assert drift.sample(make_release(), (MONDAY, UNTIL), 100).shape == (100, 2)


def test_who_was_erased_counts_no_more(sealed: SubjectLake) -> None:
    sealed.keys.destroy(Subject("person", "p3"))
    report = Fairness(Joins(sealed)).report(
        "delays", Slice(by="channel"), LABELS, MONDAY, UNTIL, by="day"
    )
    (period,) = report.periods
    kept = sum(one.n_labels for one in period.groups)
    assert kept == 600 - 600 // PEOPLE

"""Advisories of a file are matched as the OSV schema says."""

import json
import zipfile
from datetime import UTC, datetime

import pytest

from falaj.kernel.errors import InvalidInput
from falaj.models.cvss import base_score
from falaj.models.vulnerabilities import Severity, Vulnerabilities
from falaj.training.distributions import Distribution


def advisory(number, name="some.lib", *, events=(), versions=(), **more):
    affected = {"package": {"ecosystem": "PyPI", "name": name}, "versions": list(versions)}
    if events:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": [dict([one]) for one in events]}]
    return {"id": f"GHSA-{number}", "modified": "2026-10-01T00:00:00Z", "affected": [affected],
            **more}  # fmt: skip


def lines(path, *records):
    path.write_text("\n".join(json.dumps(one) for one in records))
    return Vulnerabilities(path)


def of(version, name="some-lib"):
    return [Distribution(name, version, "MIT", True)]


@pytest.mark.parametrize(
    ("version", "hit"),
    [("0.9", False), ("1.0", True), ("1.9.9", True), ("2.0rc1", True), ("2.0", False),
     ("2.5", False), ("3.0", True), ("3.4", True), ("3.5", False)],
)  # fmt: skip
def test_a_range_begins_where_it_was_introduced_and_ends_where_it_was_fixed(tmp_path, version, hit):
    events = [("introduced", "3.0"), ("last_affected", "3.4"), ("introduced", "1.0"),
              ("fixed", "2.0")]  # fmt: skip
    known = lines(tmp_path / "osv.jsonl", advisory(1, events=events))
    assert bool(known.of(of(version)).findings) is hit


def test_a_range_that_begins_at_0_covers_every_version_before_the_fix(tmp_path):
    known = lines(tmp_path / "o", advisory(1, events=[("introduced", "0"), ("fixed", "1.2")]))
    assert known.of(of("0.0.1.dev3")).findings
    assert not known.of(of("1.2")).findings


def test_a_listed_version_is_affected(tmp_path):
    known = lines(tmp_path / "o", advisory(1, versions=["1.0", "1.1"]))
    assert known.of(of("1.1")).findings
    assert not known.of(of("1.2")).findings


def test_other_ecosystems_other_names_and_what_was_withdrawn_do_not_match(tmp_path):
    npm = advisory(1, versions=["1.0"])
    npm["affected"][0]["package"]["ecosystem"] = "npm"
    known = lines(
        tmp_path / "o", npm, advisory(2, "some-library", versions=["1.0"]),
        advisory(3, versions=["1.0"], withdrawn="2026-01-01T00:00:00Z"),
    )  # fmt: skip
    assert known.of(of("1.0")).findings == ()


@pytest.mark.parametrize(
    ("more", "severity"),
    [
        ({"database_specific": {"severity": "CRITICAL"}}, Severity.CRITICAL),
        ({"database_specific": {"severity": "MODERATE"}}, Severity.MODERATE),
        (
            {"severity": [{"type": "CVSS_V3",
                           "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N"}]},
            Severity.MODERATE,
        ),
        ({"severity": [{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N"}]}, Severity.HIGH),
        ({}, Severity.HIGH),
    ],
)  # fmt: skip
def test_a_severity_that_nobody_tells_counts_as_high(tmp_path, more, severity):
    known = lines(tmp_path / "o", advisory(1, versions=["1.0"], **more))
    assert known.of(of("1.0")).findings[0].severity is severity


def test_an_archive_of_records_is_read_and_tells_how_new_it_is(tmp_path):
    newer = advisory(2, "other", versions=["1"], modified="2026-11-02T00:00:00Z")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("GHSA-1.json", json.dumps(advisory(1, versions=["1.0"])))
        archive.writestr("GHSA-2.json", json.dumps(newer))
    found = Vulnerabilities(tmp_path / "all.zip").of(of("1.0"))
    assert [one.advisory for one in found.findings] == ["GHSA-1"]
    assert (found.n_records, found.newest) == (2, datetime(2026, 11, 2, tzinfo=UTC))


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"name": "no id"}', "PK\x03\x04"])
def test_a_file_that_is_none_of_records_is_named(tmp_path, text):
    (tmp_path / "osv.jsonl").write_text(text)
    with pytest.raises(InvalidInput, match=r"osv\.jsonl"):
        Vulnerabilities(tmp_path / "osv.jsonl").of(of("1.0"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="nowhere"):
        Vulnerabilities(tmp_path / "nowhere").of(of("1.0"))


@pytest.mark.parametrize(
    ("vector", "score"),
    [  # as the calculator of FIRST gives them
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
        ("CVSS:3.0/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:N/A:N", 5.9),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:4.0/AV:N", None),
        ("CVSS:3.1/AV:N", None),
    ],
)
def test_a_base_score_is_that_of_the_specification(vector, score):
    assert base_score(vector) == score

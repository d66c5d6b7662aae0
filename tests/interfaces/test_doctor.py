"""What the doctor says of certificates: how many days are left, and whose they are to renew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from falaj.interfaces.doctor import Finding, examined
from falaj.kernel.clock import SetClock
from falaj.kernel.settings import Settings
from falaj.trust.certificates import CertificateAuthority
from falaj.wiring.setup import initialise


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    initialise(Settings.read(folder), owner="owner")
    return folder


def of_certificate(settings: Settings) -> Finding:
    findings = examined(settings)
    try:
        return next(one for one in findings if one.component == "certificate")
    finally:
        findings.close()  # type: ignore[attr-defined]  # a generator


def test_a_certificate_of_our_own_is_told_with_its_days_and_the_sealed_authority(
    project: Path,
) -> None:
    found = of_certificate(Settings.read(project))
    assert found.well
    assert "good for 89 days, renewed by itself" in found.told
    assert "(its key is sealed) for 3649 days" in found.told


def test_a_certificate_of_the_operators_that_ends_soon_is_a_finding(
    project: Path, tmp_path: Path
) -> None:
    clock = SetClock(datetime.now(UTC) - timedelta(days=80))
    given = CertificateAuthority(tmp_path, clock=clock).server_certificate(["localhost"]).path
    http = {"certificate_file": given, "private_key_file": given}
    found = of_certificate(Settings.read(project, http=http))
    assert not found.well
    assert "9 days only" in found.told
    assert found.hint is not None
    assert "Replace the file" in found.hint

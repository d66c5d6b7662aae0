"""Whoever has the files has nothing; whoever has no right touches no key."""

from __future__ import annotations

import secrets
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import select

from falaj.ingest.ports import JSON
from falaj.kernel.call import acting
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import Conflict, Corrupt, Forbidden, InvalidInput, NotFound, StepUpRequired
from falaj.kernel.ports import Outcome
from falaj.kernel.settings import Settings
from falaj.lake.spool import Spool
from falaj.testing.scanning import files_with
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal, WrongSeal
from falaj.trust.audit_tables import audit_records
from falaj.trust.factors import Factors
from falaj.trust.ports import UnknownKey
from falaj.trust.sealing import seal_bytes
from falaj.trust.tables import accounts
from falaj.wiring import backups
from falaj.wiring.keyservices import keyring_file, machine_secret_file
from falaj.wiring.stores import checked

OF_KEYS = {
    "keys.rotate": {"purpose": "wrapping"},
    "keys.rewrap": {},
    "keys.reseal": {},
    "keys.discard": {"key_id": "key_0"},
}


def refusals(site: Any, principal: str) -> list[tuple[str, str]]:
    """What the audit log says of somebody's calls that were not done."""
    with site.premises.database.reading() as connection:
        rows = connection.execute(
            select(audit_records.c.action, audit_records.c.outcome)
            .where(audit_records.c.principal == principal)
            .order_by(audit_records.c.seq)
        ).all()
    return [(row.action, row.outcome) for row in rows if row.outcome != Outcome.DONE]


@pytest.mark.parametrize("action", OF_KEYS)
@pytest.mark.parametrize("role", ["viewer", "ml_engineer", "data_scientist", "steward", "approver"])
def test_keys_are_rotated_rewrapped_and_destroyed_by_nobody_else(
    site: Any, action: str, role: str
) -> None:
    name = f"eve{secrets.token_hex(4)}"
    before = site.premises.keys.versions()
    with pytest.raises((Forbidden, NotFound)):
        site.ask(site.caller(role, name=name, factor=True), action, **OF_KEYS[action])
    assert refusals(site, f"user:{name}") == [(action, Outcome.REFUSED)]
    assert site.premises.keys.versions() == before


@pytest.mark.parametrize("action", OF_KEYS)
def test_a_stolen_session_of_an_operator_touches_no_key_without_the_second_factor(
    site: Any, action: str
) -> None:
    name = f"omar{secrets.token_hex(4)}"
    with pytest.raises(StepUpRequired):
        site.ask(site.caller("operator", name=name), action, **OF_KEYS[action])
    assert refusals(site, f"user:{name}") == [(action, Outcome.REFUSED)]


@pytest.mark.parametrize("role", ["viewer", "ml_engineer"])
def test_who_used_which_key_is_not_told_to_everybody(site: Any, role: str) -> None:
    with pytest.raises((Forbidden, NotFound)):
        site.ask(site.caller(role), "keys.uses")


def test_an_operator_cannot_destroy_the_key_that_everything_stands_on(site: Any) -> None:
    made = site.premises
    operator = site.caller("operator", factor=True)
    digest = made.blobs.keep(secrets.token_bytes(40))
    active = [key for key in made.keys.versions() if key.purpose == "wrapping"][-1]
    with pytest.raises(Conflict):
        site.ask(operator, "keys.discard", key_id=active.id)
    for odd in ("../keyring.json", "key_0", "", active.id + "\n", "audit"):
        with pytest.raises((UnknownKey, InvalidInput)):
            site.ask(operator, "keys.discard", key_id=odd)
    made.keys.rotate("wrapping")
    job = site.ask(operator, "keys.discard", key_id=active.id)
    site.run_jobs()
    found = site.ask(operator, "jobs.get", job_id=job.id)
    assert found.state == "failed"  # a moment after the rotation, and items stand on it
    assert made.blobs.fetch(digest)


def test_the_signing_keys_are_destroyed_by_nobody(site: Any) -> None:
    made = site.premises
    signature = made.keys.sign("audit", b"m")
    made.keys.rotate("audit")
    with pytest.raises(UnknownKey):
        site.ask(site.caller("operator", factor=True), "keys.discard", key_id=signature.key_id)
    made.keys.verify("audit", b"m", signature)


def test_a_wrapped_key_of_another_blob_opens_nothing(site: Any) -> None:
    made = site.premises
    one, two = (made.blobs.keep(secrets.token_bytes(40)) for _ in range(2))
    folder = made.settings.home / "blobs"
    files = [folder / made.blobs._key(digest) for digest in (one, two)]
    contents = [file.read_bytes() for file in files]
    files[0].write_bytes(contents[1])
    with pytest.raises(Corrupt):
        made.blobs.fetch(one)
    # The header of one with the frames of the other: both have the same length.
    n = len(contents[0]) - 40 - 16
    files[0].write_bytes(contents[1][:n] + contents[0][n:])
    with pytest.raises(Corrupt):
        made.blobs.fetch(one)
    with pytest.raises(Corrupt):
        made.blobs.rewrap(one)  # nor does rewrapping make it whole
    files[0].write_bytes(contents[0])
    assert made.blobs.fetch(one)


def test_a_sealed_file_of_another_installation_is_not_opened(site: Any, tmp_path: Any) -> None:
    made = site.premises
    digest = made.blobs.keep(b"a model of ours " + secrets.token_bytes(8))
    content = made.blobs.fetch(digest)
    seal = MachineSeal.create(tmp_path / "secret")
    foreign = FileKeyring.create(tmp_path / "keys.json", seal, clock=SystemClock())
    file = made.settings.home / "blobs" / made.blobs._key(digest)
    kept = file.read_bytes()
    file.write_bytes(seal_bytes(content, foreign, context=f"blob {digest}"))
    with pytest.raises(UnknownKey):
        made.blobs.fetch(digest)
    file.write_bytes(kept)


def test_a_keyring_that_was_put_back_is_noticed_by_a_running_platform(site: Any) -> None:
    made = site.premises
    file = keyring_file(made.settings)
    old = file.read_bytes()
    made.keys.rotate("wrapping")
    new = file.read_bytes()
    try:
        file.write_bytes(old)
        with pytest.raises(Corrupt, match="older than it was"):
            made.blobs.keep(secrets.token_bytes(8))
    finally:
        file.write_bytes(new)
    assert made.blobs.keep(secrets.token_bytes(8))


def test_planted_markers_stand_in_clear_in_no_file(site: Any) -> None:
    made = site.premises
    marker = f"marker-{secrets.token_hex(16)}".encode()
    home = made.settings.home
    made.blobs.keep(b"x" * 100 + marker)
    made.lake.append("planted", pa.table({"who": [marker.decode()] * 50}))
    made.event_log.append("planted", [marker], media=JSON)
    spool = Spool(made.spool_folder, "planted", made.keys)
    spool.append(pa.table({"who": [marker.decode()]}))
    segment = spool.flush()
    assert segment is not None
    for item, _ in list(made.blobs.items()):
        made.blobs.reseal(item)
    # The least and the greatest value of each file's columns stand in the lake's catalogue.
    told = {str(path).removesuffix("-wal") for path in files_with(home, marker)}
    assert told <= {"lake/catalog.sqlite"}
    segment.unlink()
    (home / "planted").write_bytes(marker.hex().encode())
    assert "planted" in map(str, files_with(home, marker))  # it does look
    (home / "planted").unlink()


def test_the_owners_second_factor_stands_in_no_file_either(site: Any) -> None:
    made = site.premises
    with made.database.reading() as connection:
        row = connection.execute(
            select(accounts.c.id, accounts.c.totp_sealed).where(accounts.c.name == "owner")
        ).one()
    opened = Factors(made.keys).open(row.totp_sealed, row.id)
    assert files_with(made.settings.home, opened.encode()) == []


def test_a_backup_is_noise_without_the_secret_that_is_not_in_it(site: Any, tmp_path: Any) -> None:
    made = site.premises
    marker = secrets.token_hex(16).encode()
    made.blobs.keep(marker)
    file = tmp_path / "stolen"
    backups.create(made.settings, file)
    secret = machine_secret_file(made.settings).read_text().strip()
    for clear in (marker, secret.encode(), bytes.fromhex(secret)):
        assert files_with(tmp_path, clear) == []
    thief = Settings.read(tmp_path / "thief")
    with pytest.raises(NotFound):
        backups.restore(thief, file)
    guess = tmp_path / "guess"
    guess.write_text(secrets.token_hex(32))
    guess.chmod(0o600)
    with pytest.raises(WrongSeal):
        backups.restore(thief, file, secret=guess)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed").write_bytes(content)
    with pytest.raises(Corrupt):
        backups.verify(made.settings, tmp_path / "changed")
    assert not thief.home.exists()


def test_a_backup_is_on_record(site: Any, tmp_path: Any) -> None:
    done = backups.create(site.premises.settings, tmp_path / "backup")
    auditor = site.caller("auditor")
    page = site.ask(auditor, "audit.search", action="backups.create", limit=1)
    assert page.records[0].details == {"n_files": done.n_files, "n_bytes": done.n_bytes}


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_a_database_on_another_machine_cannot_be_asked_in_clear(tmp_path: Any, mode: str) -> None:
    url = f"postgresql+psycopg://falaj@db.internal/falaj?sslmode={mode}"
    with pytest.raises(InvalidInput, match="clear text"):
        checked(Settings.read(tmp_path, database=url))


def test_a_reader_of_many_blobs_leaves_a_trace_under_the_own_name(site: Any) -> None:
    made = site.premises
    digest = made.blobs.keep(secrets.token_bytes(40))
    name = f"user:eve{secrets.token_hex(4)}"
    with acting(name):
        for _ in range(25):
            made.blobs.fetch(digest)
    made.key_uses.leave()
    found = site.ask(site.caller("operator"), "keys.uses", caller=name)
    assert [(use.operation, use.kind, use.n) for use in found] == [("unwrap", "blob", 25)]

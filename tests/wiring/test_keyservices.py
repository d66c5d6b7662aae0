"""The key service that the settings name: a whole platform on OpenBao."""

import secrets

import pytest

from falaj.interfaces.doctor import examined
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import FalajError, InvalidInput, Unavailable
from falaj.kernel.jobs import Worker
from falaj.kernel.settings import Settings
from falaj.kernel.settings_keys import SECRETS
from falaj.testing.kms import KmsStandIn
from falaj.trust.rotation import standing
from falaj.wiring.assembly import assemble
from falaj.wiring.keyparts import rewrappables
from falaj.wiring.keyservices import key_service
from falaj.wiring.scoring import plain_settings
from falaj.wiring.setup import initialise
from falaj.wiring.stores import checked


@pytest.fixture
def project(tmp_path, bao_server, monkeypatch):
    prefix = f"w{secrets.token_hex(6)}"
    (tmp_path / "falaj.toml").write_text(
        f'keys = "openbao://{bao_server.address}/transit?prefix={prefix}"\n'
        f'[key_service]\nca_file = "{bao_server.ca_file}"\ncache_seconds = 0\n'
    )
    monkeypatch.setenv("FALAJ_KEY_SERVICE__TOKEN", bao_server.token)
    return tmp_path


@pytest.mark.services
def test_a_platform_keeps_its_keys_in_openbao_and_rotates_them_there(project):
    initialise(Settings.read(project), owner="owner")
    assert not (project / ".falaj" / "keys").exists()
    premises = assemble(Settings.read(project))
    try:
        digest = premises.blobs.keep(b"a model")
        made = premises.keys.rotate("wrapping")
        with premises.calls.opened("test", "system:test") as call:
            premises.jobs.submit(call, "keys.rewrap", {})
        assert Worker(premises.jobs, premises.handlers, name="test").run_one()
        assert set(standing(rewrappables(premises))) == {made.id}
        assert premises.blobs.fetch(digest) == b"a model"
    finally:
        premises.close()
    again = assemble(Settings.read(project))
    try:
        assert again.blobs.fetch(digest) == b"a model"
    finally:
        again.close()
    found = {finding.component: finding for finding in examined(Settings.read(project))}
    assert found["keys"].well, found["keys"]
    assert "in the key service" in found["keys"].told


@pytest.mark.services
def test_without_its_key_service_a_platform_says_what_is_wrong(project, bao_server, monkeypatch):
    initialise(Settings.read(project), owner="owner")
    monkeypatch.setenv("FALAJ_KEY_SERVICE__TOKEN", "hvs.wrong")
    premises = assemble(Settings.read(project))
    try:
        with pytest.raises(FalajError, match="refuses the platform's token") as refused:
            premises.blobs.keep(b"x")
        assert "hvs.wrong" not in str(refused.value)
    finally:
        premises.close()
    monkeypatch.setenv("FALAJ_KEYS", "openbao://127.0.0.1:9/transit?prefix=t")
    premises = assemble(Settings.read(project))
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            premises.blobs.keep(b"x")
    finally:
        premises.close()


def test_a_setting_that_names_no_key_service_is_refused_at_once(tmp_path):
    for value in ("vault", "awskms:x", "openbao://host/transit", "pkcs11:/m.so"):
        with pytest.raises(InvalidInput):
            checked(Settings.read(tmp_path, keys=value))


@pytest.mark.parametrize("name", SECRETS)
def test_the_secrets_of_a_key_service_never_stand_in_the_toml(tmp_path, name):
    (tmp_path / "falaj.toml").write_text(f'[key_service]\n{name} = "s3cr3t"\n')
    with pytest.raises(InvalidInput, match=f"FALAJ_KEY_SERVICE__{name.upper()}") as refused:
        Settings.read(tmp_path)
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.services
def test_a_platform_wraps_in_a_hardware_module_and_rotates_all_it_has(
    tmp_path, hsm_token, monkeypatch
):
    url = hsm_token.url(f"w{secrets.token_hex(6)}")
    (tmp_path / "falaj.toml").write_text(f'keys = "{url}"\n')
    monkeypatch.setenv("FALAJ_KEY_SERVICE__PIN", hsm_token.pin)
    initialise(Settings.read(tmp_path), owner="owner")
    assert not (tmp_path / ".falaj" / "keys" / "machine.secret").exists()
    premises = assemble(Settings.read(tmp_path))
    try:
        digest = premises.blobs.keep(b"a model")
        old, made = premises.keys.versions()[-1], premises.keys.rotate("wrapping")
        with premises.calls.opened("test", "system:test") as call:
            premises.jobs.submit(call, "keys.rewrap", {})
        assert Worker(premises.jobs, premises.handlers, name="test").run_one()
        assert set(standing(rewrappables(premises))) == {made.id}
        premises.keys.discard(old.id)
        assert premises.blobs.fetch(digest) == b"a model"
    finally:
        premises.close()
    again = assemble(Settings.read(tmp_path))
    try:
        assert again.blobs.fetch(digest) == b"a model"
        again.keys.sign("audit", b"m")
    finally:
        again.close()


def test_a_platform_wraps_in_kms_and_rotates_all_it_has(tmp_path, monkeypatch):
    kms = KmsStandIn(tmp_path / "kms")
    folder = tmp_path / "p"
    folder.mkdir()
    (folder / "falaj.toml").write_text(
        f'keys = "{kms.url("falaj")}"\n[key_service]\nca_file = "{kms.ca_file}"\n'
    )
    monkeypatch.setenv("FALAJ_KEY_SERVICE__ACCESS_KEY", kms.access_key)
    monkeypatch.setenv("FALAJ_KEY_SERVICE__SECRET_KEY", kms.secret_key)
    try:
        initialise(Settings.read(folder), owner="owner")
        premises = assemble(Settings.read(folder))
        digest = premises.blobs.keep(b"a model")
        made = premises.keys.rotate("wrapping")
        with premises.calls.opened("test", "system:test") as call:
            premises.jobs.submit(call, "keys.rewrap", {})
        assert Worker(premises.jobs, premises.handlers, name="test").run_one()
        assert set(standing(rewrappables(premises))) == {made.id}
        assert premises.blobs.fetch(digest) == b"a model"
        premises.close()
    finally:
        kms.close()


def test_tasks_elsewhere_are_sent_no_secret_of_the_key_service(tmp_path):
    given = {"token": "s3cr3t-1", "pin": "s3cr3t-2", "secret_key": "s3cr3t-3", "ca_file": "/ca.pem"}
    plain = plain_settings(Settings.read(tmp_path, key_service=given))
    assert "s3cr3t" not in str(plain)
    assert Settings(**plain).key_service.token is None
    assert str(Settings(**plain).key_service.ca_file) == "/ca.pem"


@pytest.mark.services
def test_a_platform_moves_from_its_keyring_to_openbao_while_it_is_used(project, monkeypatch):
    monkeypatch.setenv("FALAJ_KEYS", "keyring:")
    initialise(Settings.read(project), owner="owner")
    premises = assemble(Settings.read(project))
    try:
        digest = premises.blobs.keep(b"a model")
        signature = premises.keys.sign("audit", b"head")
        (before,) = standing(rewrappables(premises))
    finally:
        premises.close()
    monkeypatch.delenv("FALAJ_KEYS")
    with pytest.raises(InvalidInput, match="moved from the keyring to the keyring"):
        key_service(
            Settings.read(project, keys="keyring:", key_service={"moved_from": "keyring:"}),
            SystemClock(),
        )
    monkeypatch.setenv("FALAJ_KEY_SERVICE__MOVED_FROM", "keyring:")
    premises = assemble(Settings.read(project))
    try:
        assert premises.blobs.fetch(digest) == b"a model"
        other = premises.blobs.keep(b"another model")
        assert len(standing(rewrappables(premises))) == 2
        with premises.calls.opened("test", "system:test") as call:
            premises.jobs.submit(call, "keys.rewrap", {})
        assert Worker(premises.jobs, premises.handlers, name="test").run_one()
        found = standing(rewrappables(premises))
        assert before not in found and len(found) == 1
        assert premises.blobs.fetch(digest) == b"a model"
        assert premises.blobs.fetch(other) == b"another model"
        premises.keys.verify("audit", b"head", signature)
        premises.keys.discard(before)
        assert premises.blobs.fetch(digest) == b"a model"
    finally:
        premises.close()

"""The key service on a real OpenBao over TLS: the port's suite, and what can go wrong."""

import secrets
import time
from dataclasses import replace

import httpx
import pytest

from falaj.kernel.errors import ComponentRefused, Conflict, InvalidInput, Unavailable
from falaj.testing.keys import KeyServiceSuite
from falaj.trust.adapters import bao_connection
from falaj.trust.adapters.bao_connection import BaoPlace
from falaj.trust.adapters.keys_openbao import BaoKeys
from falaj.trust.keys_cached import CachedKeys
from falaj.trust.ports import WRAPPING, Signature, UnknownKey, WrappedKey

pytestmark = pytest.mark.services
DATA_KEY = bytes(range(32))
POLICY = """
path "transit/keys" { capabilities = ["list"] }
path "transit/keys/%(prefix)s*" { capabilities = ["create", "read", "update"] }
path "transit/encrypt/%(prefix)s-wrapping" { capabilities = ["update"] }
path "transit/decrypt/%(prefix)s-wrapping" { capabilities = ["update"] }
path "transit/hmac/%(prefix)s_derive/*" { capabilities = ["update"] }
path "transit/sign/%(prefix)s-*" { capabilities = ["update"] }
"""


def place(bao, prefix=None, **more):
    prefix = prefix or f"t{secrets.token_hex(6)}"
    given = {"token": bao.token, "ca_file": bao.ca_file, **more}
    return BaoPlace.of(f"openbao://{bao.address}/transit?prefix={prefix}", **given)


@pytest.fixture
def at(bao_server):
    return place(bao_server)


@pytest.fixture
def keys(at):
    found = BaoKeys(at)
    yield found
    found.close()


class TestBaoKeys(KeyServiceSuite):
    @pytest.fixture
    def keys(self, at, bao_server):
        """As the platform should be let in: by a token that may do this and nothing else."""
        bao_server.ask("POST", f"sys/policies/acl/{at.prefix}", policy=POLICY % vars_of(at))
        made = bao_server.ask("POST", "auth/token/create", policies=[at.prefix], ttl="1h")
        found = BaoKeys(replace(at, token=made["auth"]["client_token"]))
        yield found
        found.close()

    @pytest.fixture
    def again(self, keys, at):
        found = BaoKeys(at)
        yield found
        found.close()


class TestCachedBaoKeys(KeyServiceSuite):
    """The suite with what is remembered before it, as the platform uses it."""

    @pytest.fixture
    def keys(self, at):
        return CachedKeys(BaoKeys(at), seconds=60, most=100)

    @pytest.fixture
    def again(self, keys, at):
        return CachedKeys(BaoKeys(at), seconds=0, most=100)


def vars_of(at):
    return {"prefix": at.prefix}


def child_token(bao, **more):
    return bao.ask("POST", "auth/token/create", policies=["root"], **more)["auth"]


def test_a_revoked_token_is_told_and_a_new_one_in_its_file_is_taken(bao_server, tmp_path):
    file = tmp_path / "token"
    first = child_token(bao_server)
    file.write_text(first["client_token"] + "\n")
    keys = BaoKeys(place(bao_server, token="", token_file=file))
    wrapped = keys.wrap(DATA_KEY, context="c")
    bao_server.ask("POST", "auth/token/revoke", token=first["client_token"])
    with pytest.raises(ComponentRefused, match="refuses the platform's token") as refused:
        keys.unwrap(wrapped, context="c")
    assert first["client_token"] not in str(refused.value)
    file.write_text(child_token(bao_server)["client_token"])
    assert keys.unwrap(wrapped, context="c") == DATA_KEY


def test_a_token_is_renewed_before_its_time_is_over(bao_server):
    token = child_token(bao_server, ttl="60s", renewable=True)["client_token"]
    now = [0.0]
    at = place(bao_server, token=token)
    keys = BaoKeys(at)
    keys._server = bao_connection.BaoConnection(at, now=lambda: now[0])

    def expires():
        return bao_server.ask("POST", "auth/token/lookup", token=token)["data"]["expire_time"]

    keys.wrap(DATA_KEY, context="c")
    before = expires()
    time.sleep(1.1)  # OpenBao tells the end of a token in whole seconds
    keys.wrap(DATA_KEY, context="c")
    assert expires() == before
    now[0] = 31.0
    keys.wrap(DATA_KEY, context="c")
    assert expires() > before


def test_an_approle_logs_in_and_logs_in_again_when_its_token_ends(bao_server):
    mounted = bao_server.ask("GET", "sys/auth")["data"]
    if "approle/" not in mounted:
        bao_server.ask("POST", "sys/auth/approle", type="approle")
    name = f"r{secrets.token_hex(4)}"
    bao_server.ask("POST", f"auth/approle/role/{name}", token_policies=["transit-all"])
    bao_server.ask(
        "POST", "sys/policies/acl/transit-all",
        policy='path "transit/*" { capabilities = ["create", "read", "update", "list"] }',
    )  # fmt: skip
    role = bao_server.ask("GET", f"auth/approle/role/{name}/role-id")["data"]["role_id"]
    secret = bao_server.ask("POST", f"auth/approle/role/{name}/secret-id", ttl="1h")["data"]
    given = {"token": "", "role_id": role, "secret_id": secret["secret_id"]}
    keys = BaoKeys(place(bao_server, **given))
    wrapped = keys.wrap(DATA_KEY, context="c")
    bao_server.ask("POST", "auth/token/revoke", token=keys._server._token)
    assert keys.unwrap(wrapped, context="c") == DATA_KEY
    wrong = BaoKeys(place(bao_server, **{**given, "secret_id": "wrong"}))
    with pytest.raises(ComponentRefused, match="AppRole"):
        wrong.wrap(DATA_KEY, context="c")


def test_a_version_that_was_deleted_in_the_server_is_named(bao_server, keys, at):
    wrapped = keys.wrap(DATA_KEY, context="c")
    keys.rotate(WRAPPING)
    name = f"{at.prefix}-wrapping"
    after = {"min_decryption_version": 2, "min_encryption_version": 2}
    bao_server.ask("POST", f"transit/keys/{name}/config", **after)
    bao_server.ask("POST", f"transit/keys/{name}/trim", min_available_version=2)
    with pytest.raises(UnknownKey, match=f"{name}:v1"):
        keys.unwrap(wrapped, context="c")


def test_versions_are_destroyed_from_the_oldest_on(keys):
    keys.rotate(WRAPPING)
    keys.rotate(WRAPPING)
    ids = [version.id for version in keys.versions()]
    with pytest.raises(Conflict, match=f"Before {ids[1]} stands {ids[0]}"):
        keys.discard(ids[1])
    keys.discard(ids[0])
    keys.discard(ids[1])
    assert [version.id for version in keys.versions()] == [ids[2]]


def test_a_sealed_server_says_so_and_serves_again_when_it_is_unsealed(own_bao_server):
    bao = own_bao_server
    keys = BaoKeys(place(bao))
    wrapped = keys.wrap(DATA_KEY, context="c")
    cached = CachedKeys(keys, seconds=60, most=10)
    assert cached.unwrap(wrapped, context="c") == DATA_KEY
    bao.ask("PUT", "sys/seal")
    with pytest.raises(Unavailable, match="is sealed") as error:
        keys.unwrap(wrapped, context="c")
    assert "bao operator unseal" in error.value.hint
    assert cached.unwrap(wrapped, context="c") == DATA_KEY  # what was asked before still reads
    bao.ask("PUT", "sys/unseal", key=bao.unseal_key())
    assert keys.unwrap(wrapped, context="c") == DATA_KEY


def test_a_server_that_is_down_fails_at_once_and_is_asked_again_later(at, monkeypatch):
    down = BaoKeys(replace(at, address="https://127.0.0.1:9"))
    with pytest.raises(Unavailable, match="does not answer"):
        down.wrap(DATA_KEY, context="c")
    asked = []
    monkeypatch.setattr(httpx.Client, "request", lambda *given, **more: asked.append(given))
    with pytest.raises(Unavailable, match="a moment ago"):
        down.wrap(DATA_KEY, context="c")
    assert asked == []


def test_a_server_whose_certificate_is_another_authoritys_is_not_believed(at):
    other = BaoKeys(replace(at, ca_file=None))
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        other.wrap(DATA_KEY, context="c")


def test_two_installations_share_a_server_and_not_their_keys(bao_server, keys):
    other = BaoKeys(place(bao_server))
    wrapped = keys.wrap(DATA_KEY, context="c")
    other.wrap(DATA_KEY, context="c")
    with pytest.raises(UnknownKey):
        other.unwrap(wrapped, context="c")
    stolen = WrappedKey(other.versions()[0].id, wrapped.value)
    with pytest.raises(Exception, match="was changed, or belongs to something else"):
        other.unwrap(stolen, context="c")
    assert keys.derive("cookies") != other.derive("cookies")


def test_forged_key_ids_do_not_become_questions_to_the_server(keys):
    signature = keys.sign("tokens", b"m")
    keys.verify("tokens", b"m", signature)
    asked = []
    ask = keys._server.ask
    keys._server.ask = lambda *given: asked.append(given) or ask(*given)
    for number in range(50):
        for key_id in (f"{signature.key_id}{number + 1}", f"elsewhere:v{number}", ":v1", "x:v²"):
            with pytest.raises(UnknownKey):
                keys.verify("tokens", b"m", Signature(key_id, "Ed25519", signature.value))
    assert len(asked) <= 3
    keys.verify("tokens", b"m", signature)


def test_a_purpose_that_the_server_cannot_name_is_refused(keys):
    with pytest.raises(InvalidInput, match="end with a letter or a digit"):
        keys.sign("audit.", b"m")


@pytest.mark.parametrize(
    "url",
    [
        "openbao://", "openbao://user:secret@host/transit", "openbao://host/../sys",
        "openbao://host/transit?prefix=A", "openbao://host/transit?prefix=a-b",
        "openbao://host:99999/transit", "openbao://host/transit?tls=no", "http://host/transit",
    ],
)  # fmt: skip
def test_an_odd_address_is_refused(url):
    with pytest.raises(InvalidInput):
        BaoPlace.of(url, token="t")


def test_an_address_without_anything_that_opens_it_is_refused():
    with pytest.raises(InvalidInput, match="FALAJ_KEY_SERVICE__TOKEN"):
        BaoPlace.of("openbao://host/transit")


def test_secrets_are_in_no_representation(at):
    shown = repr([at, replace(at, secret_id="s3cr3t"), BaoKeys(at)])
    assert at.token not in shown
    assert "s3cr3t" not in shown

"""Access tokens: what is accepted, what a forger tries, and how soon a revocation is in force."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OKPKey

from falaj.kernel.call import Principal, PrincipalKind
from falaj.kernel.errors import Corrupt
from falaj.trust.epochs import Epochs, Revoked, revoke
from falaj.trust.model import InvalidToken
from falaj.trust.ports import Signature
from falaj.trust.tokens import Tokens

AMINA = Principal("user:amina", PrincipalKind.USER, ("viewer",))
ISSUER = "https://falaj.test"


class Never:
    """Nothing is revoked."""

    REVOKED = Revoked()

    def current(self, now):
        return self.REVOKED

    def lately(self, now):
        return self.REVOKED


@pytest.fixture
def tokens(keys) -> Tokens:
    return Tokens(keys, Never(), issuer=ISSUER)


@pytest.fixture
def now():
    from tests.trust.conftest import START

    return START


def issued(tokens, now, **kwargs) -> str:
    given = {"session": "session_1", "account_epoch": 0, "mfa_at": now, **kwargs}
    return tokens.issue(kwargs.pop("principal", AMINA), now=now, **given)[0]


def part(value) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(token: str, at: int) -> dict:
    text = token.split(".")[at]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def resigned(keys, header: dict, claims: dict) -> str:
    """A token with the platform's true signature over any header and claims."""
    message = f"{part(header)}.{part(claims)}"
    return f"{message}.{part(keys.sign('access-tokens', message.encode()).value)}"


def test_a_token_says_who_with_which_roles_and_how_fresh_the_factor_is(tokens, now):
    moment = now + timedelta(microseconds=123_456)
    text, expires_at = tokens.issue(
        AMINA, session="session_1", account_epoch=3, mfa_at=moment, now=moment
    )
    verified = tokens.read(text, moment)
    assert verified.caller.principal == AMINA
    assert verified.caller.mfa_at == moment
    assert (verified.session, verified.account_epoch) == ("session_1", 3)
    assert expires_at - moment == timedelta(minutes=5)


def test_the_token_is_a_standard_one_that_joserfc_verifies(tokens, keys, now):
    text = issued(tokens, now)
    public = OKPKey.import_key(
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": part(keys.public_key("access-tokens")),
        }
    )
    token = jwt.decode(text, public, algorithms=["Ed25519"])
    assert token.header == {"alg": "Ed25519", "kid": decoded(text, 0)["kid"], "typ": "at+jwt"}
    assert token.claims["sub"] == "user:amina"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": "at+jwt", "kid": "k"},
        {"alg": "EdDSA", "typ": "at+jwt"},
        {"alg": "HS256", "typ": "at+jwt"},
        {"typ": "JWT"},
        {"typ": None},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}},
        {"jku": "https://evil.example/keys"},
        {"kid": ["a"]},
        {"kid": "key_of_somebody_else"},
        {"kid": "../../../dev/null"},
    ],
)
def test_a_header_that_this_platform_does_not_write_is_refused(tokens, keys, now, header):
    good = issued(tokens, now)
    forged = resigned(keys, {**decoded(good, 0), **header}, decoded(good, 1))
    with pytest.raises(InvalidToken):
        tokens.verify(forged, now)


def test_an_unsigned_token_is_refused(tokens, now):
    good = issued(tokens, now)
    header = part({**decoded(good, 0), "alg": "none"})
    payload = good.split(".")[1]
    for forged in (f"{header}.{payload}.", f"{header}.{payload}", f"{header}.{payload}.AA"):
        with pytest.raises(InvalidToken):
            tokens.verify(forged, now)


def test_the_public_key_used_as_a_shared_secret_is_refused(tokens, keys, now):
    good = issued(tokens, now)
    for algorithm in ("HS256", "Ed25519"):
        header = part({**decoded(good, 0), "alg": algorithm})
        message = f"{header}.{good.split('.')[1]}"
        mac = hmac.new(keys.public_key("access-tokens"), message.encode(), hashlib.sha256)
        with pytest.raises(InvalidToken):
            tokens.verify(f"{message}.{part(mac.digest())}", now)


def test_another_key_under_this_platforms_key_id_is_refused(tokens, now):
    good = issued(tokens, now)
    message, _, _ = good.rpartition(".")
    forged = f"{message}.{part(Ed25519PrivateKey.generate().sign(message.encode()))}"
    with pytest.raises(InvalidToken, match="signature"):
        tokens.verify(forged, now)


def test_a_signature_for_another_purpose_is_refused(tokens, keys, now):
    message, _, _ = issued(tokens, now).rpartition(".")
    other = keys.sign("audit-checkpoints", message.encode())
    with pytest.raises(InvalidToken):
        tokens.verify(f"{message}.{part(other.value)}", now)


def test_changed_roles_break_the_signature(tokens, now):
    good = issued(tokens, now)
    header, _, signature = good.split(".")
    claims = {**decoded(good, 1), "roles": ["administrator"]}
    with pytest.raises(InvalidToken):
        tokens.verify(f"{header}.{part(claims)}.{signature}", now)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.test"},
        {"iss": None},
        {"aud": "mlflow"},
        {"aud": ["falaj", "mlflow"]},
        {"sub": "system:worker"},
        {"sub": "root"},
        {"sub": 7},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": 10**18},
        {"nbf": 1.5},
        {"sid": None},
        {"epoch": "x"},
        {"roles": 5},
        {"mfa_at": "now"},
    ],
)
def test_claims_that_this_platform_does_not_make_are_refused(tokens, keys, now, claims):
    good = issued(tokens, now)
    forged = resigned(keys, decoded(good, 0), {**decoded(good, 1), **claims})
    with pytest.raises(InvalidToken):
        tokens.verify(forged, now)


def test_a_token_of_another_platform_with_the_same_keys_is_refused(keys, now):
    ours = Tokens(keys, Never(), issuer=ISSUER)
    theirs = Tokens(keys, Never(), issuer="https://staging.test")
    other_audience = Tokens(keys, Never(), issuer=ISSUER, audience="reports")
    for foreign in (theirs, other_audience):
        with pytest.raises(InvalidToken):
            ours.verify(issued(foreign, now), now)


@pytest.mark.parametrize(
    ("seconds", "good"), [(-31, False), (-29, True), (0, True), (329, True), (331, False)]
)
@pytest.mark.parametrize("warm", [False, True])
def test_a_token_is_good_for_five_minutes_give_or_take_the_clocks(tokens, now, seconds, good, warm):
    text = issued(tokens, now)
    if warm and seconds >= 0:
        tokens.verify(text, now)
    at = now + timedelta(seconds=seconds)
    if good:
        assert tokens.verify(text, at).principal == AMINA
    else:
        with pytest.raises(InvalidToken):
            tokens.verify(text, at)


def test_a_token_that_would_live_for_years_is_refused_though_well_signed(tokens, keys, now):
    good = issued(tokens, now)
    claims = {**decoded(good, 1), "exp": int((now + timedelta(days=900)).timestamp())}
    with pytest.raises(InvalidToken):
        tokens.verify(resigned(keys, decoded(good, 0), claims), now)


def test_a_name_that_stands_twice_is_refused(tokens, keys, now):
    good = issued(tokens, now)
    header, payload, _ = good.split(".")
    text = json.dumps(decoded(good, 1))[:-1] + ', "sub": "user:root"}'
    message = f"{header}.{part(text.encode())}"
    signature = part(keys.sign("access-tokens", message.encode()).value)
    with pytest.raises(InvalidToken):
        tokens.verify(f"{message}.{signature}", now)
    assert payload


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_no_changed_character_is_overlooked(tokens, now, data):
    good = issued(tokens, now)
    at = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.characters(max_codepoint=0x17F).filter(lambda c: c != good[at]))
    with pytest.raises(InvalidToken):
        tokens.verify(good[:at] + other + good[at + 1 :], now)


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "x" * 5_000, "é.é.é", "[].[].[]"])
def test_garbage_is_refused(tokens, now, text):
    with pytest.raises(InvalidToken):
        tokens.verify(text, now)


def test_deeply_nested_json_is_refused(tokens, now):
    deep = part(b"[" * 1_400)
    with pytest.raises(InvalidToken):
        tokens.verify(f"{deep}.{deep[:500]}.AA", now)


def test_tokens_signed_before_a_rotation_stay_good_and_new_ones_name_the_new_key(tokens, keys, now):
    old = issued(tokens, now)
    keys.rotate("access-tokens")
    new = issued(tokens, now)
    assert decoded(old, 0)["kid"] != decoded(new, 0)["kid"]
    fresh = Tokens(keys, Never(), issuer=ISSUER)
    assert fresh.verify(old, now) == fresh.verify(new, now)


def test_a_key_service_that_names_another_key_each_time_is_reported(now):
    class Restless:
        n = 0

        def sign(self, purpose, message):
            self.n += 1
            return Signature(f"key{self.n}", "Ed25519", b"")

        def verify(self, purpose, message, signature):
            raise AssertionError

    with pytest.raises(Corrupt):
        issued(Tokens(Restless(), Never(), issuer=ISSUER), now)


def test_a_warm_token_asks_the_key_service_no_more(keys, now):
    class Counting:
        n_verified = 0

        def sign(self, purpose, message):
            return keys.sign(purpose, message)

        def verify(self, purpose, message, signature):
            self.n_verified += 1
            keys.verify(purpose, message, signature)

    counting = Counting()
    tokens = Tokens(counting, Never(), issuer=ISSUER)
    text = issued(tokens, now)
    for _ in range(5):
        tokens.verify(text, now)
    assert counting.n_verified == 1


def test_the_memory_of_verified_tokens_is_bounded(keys, now, monkeypatch):
    monkeypatch.setattr("falaj.trust.tokens._MOST_CACHED", 3)
    tokens = Tokens(keys, Never(), issuer=ISSUER)
    for number in range(10):
        tokens.verify(issued(tokens, now, session=f"session_{number}"), now)
    assert len(tokens._kept) <= 3


def test_a_revoked_session_is_refused_within_a_second_in_every_process(trust):
    amina = trust.person("amina")
    text = amina.tokens.access_token.get_secret_value()
    processes = [trust.new_process() for _ in range(3)]
    for process in processes:
        process.verify(text, trust.now)
    with trust.database.transaction() as connection:
        trust.sessions.end(connection, amina.tokens.session, now=trust.now, because="test")
    trust.wait(seconds=1)
    for process in processes:
        with pytest.raises(InvalidToken, match="revoked"):
            process.verify(text, trust.now)


def test_a_revocation_spares_the_tokens_of_others(trust):
    amina, omar = trust.person("amina"), trust.person("omar")
    with trust.database.transaction() as connection:
        trust.sessions.end(connection, amina.tokens.session, now=trust.now, because="test")
    trust.wait(seconds=1)
    caller = trust.tokens.verify(omar.tokens.access_token.get_secret_value(), trust.now)
    assert caller.principal.id == "user:omar"


def test_revocations_outlive_the_tokens_that_they_revoke_and_no_longer(trust):
    from sqlalchemy import func, select

    from falaj.trust.tables import revocations

    for hour in range(4):
        with trust.database.transaction() as connection:
            revoke(connection, now=trust.now, session=f"session_{hour}")
        trust.wait(minutes=59)
    with trust.database.reading() as connection:
        assert connection.execute(select(func.count()).select_from(revocations)).scalar() == 2


def test_the_epoch_is_read_a_few_times_a_second_however_often_it_is_asked(trust):
    class Counting:
        n = 0

        def reading(self):
            self.n += 1
            return trust.database.reading()

    counting = Counting()
    epochs = Epochs(counting)
    for _ in range(200):
        epochs.current(trust.now)
        trust.wait(milliseconds=10)
    assert counting.n == 7


def test_a_clock_that_was_set_back_does_not_keep_an_old_copy(trust):
    epochs = Epochs(trust.database)
    epochs.current(trust.now)
    with trust.database.transaction() as connection:
        revoke(connection, now=trust.now, session="session_x")
    trust.wait(hours=-1)
    assert "session_x" in epochs.current(trust.now).sessions


def test_without_the_database_no_stale_copy_is_believed(trust, tmp_path):
    from falaj.kernel.database import Database
    from falaj.kernel.errors import Unavailable

    amina = trust.person("amina")
    text = amina.tokens.access_token.get_secret_value()
    empty = Database(f"sqlite:///{tmp_path}/empty.db")
    tokens = Tokens(trust.keys, Epochs(empty), issuer=ISSUER)
    with pytest.raises(Unavailable):
        tokens.verify(text, trust.now)
    empty.close()


def test_a_token_is_at_hand_only_while_all_that_is_known_of_it_is_fresh(tokens, now):
    text = issued(tokens, now)
    assert tokens.at_hand(text, now) is None  # nobody has verified it yet
    verified = tokens.verify(text, now)
    assert tokens.at_hand(text, now) == verified
    assert tokens.at_hand(text, now + timedelta(minutes=6)) is None
    assert tokens.at_hand("x" * 100_000, now) is None
    for lately in (None, Revoked(epoch=1)):
        tokens._revocations = type("Changed", (), {"lately": lambda _self, _now, it=lately: it})()
        assert tokens.at_hand(text, now) is None

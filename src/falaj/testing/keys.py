"""What every ``KeyService`` and every ``Rewrappable`` must do; their tests inherit the suites."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from falaj.kernel.errors import Conflict, Corrupt, InvalidInput
from falaj.trust.ports import (
    WRAPPING,
    KeyService,
    KeyState,
    Rewrappable,
    Signature,
    UnknownKey,
    WrappedKey,
)
from falaj.trust.signatures import verify_signature

_DATA_KEY = bytes(range(32))


class KeyServiceSuite:
    """Inherit it and give the two fixtures.

    ``keys`` is a fresh key service; ``again`` opens the same keys as another process
    would: by a new object.
    """

    @pytest.fixture
    def keys(self) -> KeyService:
        """A fresh key service."""
        raise NotImplementedError

    @pytest.fixture
    def again(self, keys: KeyService) -> KeyService:
        """The same keys through another object."""
        raise NotImplementedError

    def test_a_wrapped_key_unwraps_under_the_same_context(self, keys: KeyService) -> None:
        wrapped = keys.wrap(_DATA_KEY, context="blob a")
        assert keys.unwrap(wrapped, context="blob a") == _DATA_KEY
        assert _DATA_KEY not in wrapped.value

    def test_a_wrapped_key_never_unwraps_under_another_context(self, keys: KeyService) -> None:
        wrapped = keys.wrap(_DATA_KEY, context="blob a")
        with pytest.raises(Corrupt):
            keys.unwrap(wrapped, context="blob b")

    def test_every_changed_byte_of_a_wrapped_key_is_noticed(self, keys: KeyService) -> None:
        wrapped = keys.wrap(_DATA_KEY, context="c")
        for place in range(len(wrapped.value)):
            changed = bytearray(wrapped.value)
            changed[place] ^= 1
            with pytest.raises(Corrupt):
                keys.unwrap(WrappedKey(wrapped.key_id, bytes(changed)), context="c")
        for cut in (0, 5, 12, len(wrapped.value) - 1):
            with pytest.raises(Corrupt):
                keys.unwrap(WrappedKey(wrapped.key_id, wrapped.value[:cut]), context="c")

    def test_an_unknown_key_is_named_as_such(self, keys: KeyService) -> None:
        wrapped = keys.wrap(_DATA_KEY, context="c")
        with pytest.raises(UnknownKey):
            keys.unwrap(WrappedKey("key_elsewhere", wrapped.value), context="c")
        signature = keys.sign("audit", b"m")
        with pytest.raises(UnknownKey):
            keys.verify("audit", b"m", Signature("key_x", signature.algorithm, signature.value))

    def test_the_same_data_key_is_wrapped_differently_each_time(self, keys: KeyService) -> None:
        assert keys.wrap(_DATA_KEY, context="c").value != keys.wrap(_DATA_KEY, context="c").value

    @pytest.mark.parametrize("size", [0, 15, 65])
    def test_a_data_key_of_an_odd_size_is_refused(self, keys: KeyService, size: int) -> None:
        with pytest.raises(InvalidInput):
            keys.wrap(bytes(size), context="c")

    def test_what_one_process_wraps_another_one_unwraps(
        self, keys: KeyService, again: KeyService
    ) -> None:
        wrapped = keys.wrap(_DATA_KEY, context="c")
        assert again.unwrap(wrapped, context="c") == _DATA_KEY

    def test_a_rotation_makes_new_wraps_with_a_new_key_and_still_opens_old_ones(
        self, keys: KeyService, again: KeyService
    ) -> None:
        old = keys.wrap(_DATA_KEY, context="c")
        made = keys.rotate(WRAPPING)
        new = keys.wrap(_DATA_KEY, context="c")
        assert (made.state, made.version) == (KeyState.ACTIVE, 2)
        assert new.key_id == made.id != old.key_id
        for service in (keys, again):
            assert service.unwrap(old, context="c") == _DATA_KEY
            assert service.unwrap(new, context="c") == _DATA_KEY

    def test_derived_secrets_are_stable_and_separate(
        self, keys: KeyService, again: KeyService
    ) -> None:
        secret = keys.derive("cookies")
        keys.rotate(WRAPPING)
        assert len(secret) == 32
        assert secret == keys.derive("cookies") == again.derive("cookies")
        assert secret != keys.derive("other")
        assert keys.derive("cookies", 64)[:32] != secret
        for size in (0, 15, 65):
            with pytest.raises(InvalidInput):
                keys.derive("cookies", size)

    def test_a_signature_verifies_with_the_public_key_alone(self, keys: KeyService) -> None:
        signature = keys.sign("audit", b"message")
        assert signature.algorithm == "Ed25519"
        Ed25519PublicKey.from_public_bytes(keys.public_key("audit")).verify(
            signature.value, b"message"
        )
        keys.verify("audit", b"message", signature)

    def test_a_signature_fits_its_message_and_its_purpose_only(self, keys: KeyService) -> None:
        signature = keys.sign("audit", b"message")
        keys.sign("tokens", b"message")
        with pytest.raises(Corrupt):
            keys.verify("audit", b"massage", signature)
        with pytest.raises(Corrupt):
            keys.verify("tokens", b"message", signature)
        changed = bytes([signature.value[0] ^ 1]) + signature.value[1:]
        for value in (changed, b"", signature.value[:-1]):
            with pytest.raises(Corrupt):
                keys.verify("audit", b"message", Signature(signature.key_id, "Ed25519", value))
        with pytest.raises(Corrupt):
            keys.verify("audit", b"message", Signature(signature.key_id, "none", signature.value))

    def test_a_purpose_that_ends_in_p256_signs_with_ecdsa(
        self, keys: KeyService, again: KeyService
    ) -> None:
        signature = again.sign("models.p256", b"message")
        assert signature.algorithm == "ECDSA-P256-SHA256"
        public = load_der_public_key(keys.public_key("models.p256"))
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert public.curve.name == "secp256r1"
        public.verify(signature.value, b"message", ec.ECDSA(SHA256()))
        keys.verify("models.p256", b"message", signature)
        for message, changed in (
            (b"massage", signature),
            (b"message", Signature(signature.key_id, "Ed25519", signature.value)),
            (b"message", Signature(signature.key_id, signature.algorithm, b"")),
            (b"message", Signature(signature.key_id, signature.algorithm, bytes(64))),
        ):
            with pytest.raises(Corrupt):
                keys.verify("models.p256", message, changed)

    def test_a_rotated_p256_key_still_verifies_what_the_old_one_signed(
        self, keys: KeyService
    ) -> None:
        old = keys.sign("models.p256", b"m")
        made = keys.rotate("models.p256")
        new = keys.sign("models.p256", b"m")
        assert (made.algorithm, made.id, made.version) == ("ECDSA-P256-SHA256", new.key_id, 2)
        published = keys.public_keys("models.p256")
        assert list(published) == [old.key_id, new.key_id]
        for signature in (old, new):
            keys.verify("models.p256", b"m", signature)
            verify_signature(published[signature.key_id], b"m", signature)
        with pytest.raises(Corrupt):
            verify_signature(published[new.key_id], b"m", old)

    def test_a_discarded_version_opens_nothing_any_more(
        self, keys: KeyService, again: KeyService
    ) -> None:
        first = keys.wrap(_DATA_KEY, context="c")
        with pytest.raises(Conflict):
            keys.discard(first.key_id)
        keys.rotate(WRAPPING)
        second = keys.wrap(_DATA_KEY, context="c")
        keys.discard(first.key_id)
        for service in (keys, again):
            with pytest.raises(UnknownKey):
                service.unwrap(first, context="c")
            assert service.unwrap(second, context="c") == _DATA_KEY
            assert first.key_id not in {version.id for version in service.versions()}
        with pytest.raises(UnknownKey):
            keys.discard(first.key_id)
        with pytest.raises(Conflict):
            keys.discard(second.key_id)
        assert keys.rotate(WRAPPING).version == 3

    def test_a_signing_key_is_never_discarded(self, keys: KeyService) -> None:
        old = keys.sign("audit", b"m")
        keys.rotate("audit")
        with pytest.raises(UnknownKey):
            keys.discard(old.key_id)
        keys.verify("audit", b"m", old)

    def test_another_process_signs_with_the_same_key(
        self, keys: KeyService, again: KeyService
    ) -> None:
        signature = again.sign("audit", b"m")
        keys.verify("audit", b"m", signature)
        assert keys.public_key("audit") == again.public_key("audit")
        assert keys.sign("audit", b"m").key_id == signature.key_id

    def test_a_rotated_signing_key_still_verifies_what_the_old_one_signed(
        self, keys: KeyService, again: KeyService
    ) -> None:
        old, old_key = keys.sign("tokens", b"m"), keys.public_key("tokens")
        made = keys.rotate("tokens")
        new = keys.sign("tokens", b"m")
        assert new.key_id == made.id != old.key_id
        assert keys.public_key("tokens") != old_key
        assert list(again.public_keys("tokens")) == [old.key_id, new.key_id]
        for service in (keys, again):
            service.verify("tokens", b"m", old)
            service.verify("tokens", b"m", new)

    def test_wrapping_keys_do_not_sign_and_purposes_are_plain_names(self, keys: KeyService) -> None:
        for purpose in (WRAPPING, "", "Has Space", "../x", "a" * 101, "a\n"):
            with pytest.raises(InvalidInput):
                keys.sign(purpose, b"m")
        with pytest.raises(InvalidInput):
            keys.rotate("no/such")

    def test_versions_are_listed_without_secrets(self, keys: KeyService) -> None:
        keys.sign("audit", b"m")
        keys.rotate(WRAPPING)
        listed = [(item.purpose, item.version, item.state) for item in keys.versions()]
        assert listed == [
            ("audit", 1, KeyState.ACTIVE),
            (WRAPPING, 1, KeyState.RETIRED),
            (WRAPPING, 2, KeyState.ACTIVE),
        ]

    def test_many_threads_share_it(self, keys: KeyService, again: KeyService) -> None:
        def work(number: int) -> str:
            service = (keys, again)[number % 2]
            context = f"c{number}"
            if number % 10 == 0:
                service.rotate(WRAPPING)
            assert service.unwrap(service.wrap(_DATA_KEY, context=context), context=context)
            return service.sign("first-use", b"m").key_id

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(work, range(40)))) == 1


class RewrappableSuite:
    """Inherit it and give the fixtures.

    ``keys`` is the key service that the store wraps with; ``store`` is empty; ``put``
    keeps some bytes in it as an item of its own; ``contents`` tells what all items say,
    in any order; ``gone`` takes an item away, as its owner would.
    """

    @pytest.fixture
    def keys(self) -> KeyService:
        """The key service."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, keys: KeyService) -> Rewrappable:
        """An empty store."""
        raise NotImplementedError

    @pytest.fixture
    def put(self, store: Rewrappable) -> Callable[[bytes], None]:
        """Keeps bytes as a new item."""
        raise NotImplementedError

    @pytest.fixture
    def contents(self, store: Rewrappable) -> Callable[[], list[bytes]]:
        """What all items say."""
        raise NotImplementedError

    @pytest.fixture
    def gone(self, store: Rewrappable) -> Callable[[str], None]:
        """Takes an item away."""
        raise NotImplementedError

    def test_items_are_sorted_and_begin_behind_a_given_one(
        self, keys: KeyService, store: Rewrappable, put: Callable[[bytes], None]
    ) -> None:
        for number in range(5):
            put(b"item %d" % number)
        names = [item for item, _ in store.items()]
        assert len(names) == 5
        assert names == sorted(set(names))
        for place, name in enumerate(names):
            assert [item for item, _ in store.items(after=name)] == names[place + 1 :]
        assert {key_id for _, key_id in store.items()} == {keys.versions()[-1].id}

    @pytest.mark.parametrize("way", ["rewrap", "reseal"])
    def test_an_item_moves_to_the_active_version_and_says_what_it_said(
        self,
        keys: KeyService,
        store: Rewrappable,
        put: Callable[[bytes], None],
        contents: Callable[[], list[bytes]],
        way: str,
    ) -> None:
        for number in range(4):
            put(b"item %d" % number)
        said = sorted(contents())
        before = [item for item, _ in store.items()]
        made = keys.rotate(WRAPPING)
        for item in before:
            assert getattr(store, way)(item)
            assert sorted(contents()) == said
        assert {key_id for _, key_id in store.items()} == {made.id}
        assert set(before) <= {item for item, _ in store.items()}
        for item in before:
            assert getattr(store, way)(item)  # a repeat does no harm
        assert sorted(contents()) == said

    @pytest.mark.parametrize("way", ["rewrap", "reseal"])
    def test_an_item_that_is_gone_is_told_and_does_not_come_back(
        self,
        keys: KeyService,
        store: Rewrappable,
        put: Callable[[bytes], None],
        gone: Callable[[str], None],
        way: str,
    ) -> None:
        for number in range(3):
            put(b"item %d" % number)
        first = next(iter(store.items()))[0]
        keys.rotate(WRAPPING)
        gone(first)
        assert not getattr(store, way)(first)
        assert first not in [item for item, _ in store.items()]

    def test_what_is_put_after_a_rotation_stands_on_the_new_version(
        self, keys: KeyService, store: Rewrappable, put: Callable[[bytes], None]
    ) -> None:
        put(b"before")
        old = keys.versions()[-1].id
        made = keys.rotate(WRAPPING)
        put(b"after")
        assert sorted(key_id for _, key_id in store.items()) == sorted([old, made.id])

"""``Pkcs11Wrapping``: wrapping keys in a hardware security module, through PKCS#11.

A version of the key is an AES-256 object of the token, labelled ``<prefix>-wrapping:v3``,
sensitive and not extractable: the module encrypts data keys with it (AES-GCM, with a nonce
of ours and the context as associated data), and the key never leaves it. Modules that
insist on nonces of their own (AWS CloudHSM) are not supported.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from falaj.kernel.clock import Clock, from_microseconds, microseconds
from falaj.kernel.errors import ComponentRefused, Corrupt, FalajError, InvalidInput, Unavailable
from falaj.trust.keys import AES, NONCE_BYTES, still_active
from falaj.trust.ports import WRAPPING, KeyState, KeyVersion, UnknownKey, WrappedKey

if TYPE_CHECKING:
    import pkcs11

T = TypeVar("T")
_LABEL = b"falaj wrap v1\0"
_TAG_BITS = 128
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Pkcs11Place:
    """Which token of which module, and what opens it."""

    module: str
    token: str
    prefix: str
    pin: str = field(repr=False)

    @classmethod
    def of(cls, url: str, *, pin: str) -> Pkcs11Place:
        """The token that ``pkcs11:/path/module.so?token=label&prefix=falaj`` names.

        Raises:
            InvalidInput: it is no such URL, or there is no PIN.
        """
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        prefix = options.get("prefix", "falaj")
        if (
            parts.scheme != "pkcs11"
            or parts.netloc
            or not parts.path.startswith("/")
            or not options.get("token")
            or not options.keys() <= {"token", "prefix"}
            or not _PREFIX.fullmatch(prefix)
        ):
            raise InvalidInput(
                f"The setting keys = {url!r} names no token of a hardware module.",
                hint="Use `pkcs11:/usr/lib/softhsm/libsofthsm2.so?token=falaj`.",
            )
        if not pin:
            raise InvalidInput(
                "The token of the hardware module needs its PIN.",
                hint="Set FALAJ_KEY_SERVICE__PIN.",
            )
        return cls(unquote(parts.path), options["token"], prefix, pin)


class _Device:
    """A token, open in this process.

    PKCS#11 keeps one state of login for a whole process, and modules differ in how many
    threads they bear: there is one session, and one thread at a time in it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.session: pkcs11.Session | None = None
        self.pid = 0


_DEVICES: dict[tuple[str, str], _Device] = {}
_OPENING = threading.Lock()


class Pkcs11Wrapping:
    """The ``WrappingKeys`` of a hardware module.

    Args:
        place: which token. It is opened at the first use, and again in a forked process.
        lock_file: held while a version is made, so that two processes do not make one each.
        clock: gives new versions their time, which stands in the object's id.
    """

    def __init__(self, place: Pkcs11Place, *, lock_file: Path, clock: Clock) -> None:
        self._place = place
        self._lock_file = lock_file
        self._clock = clock
        with _OPENING:
            self._device = _DEVICES.setdefault((place.module, place.token), _Device())

    def __repr__(self) -> str:
        return f"Pkcs11Wrapping({self._place.token}, {self._place.prefix})"

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """See ``KeyService.wrap``; the first one makes the key."""

        def work(session: pkcs11.Session) -> WrappedKey:
            held = self._held(session)
            number = max(held) if held else self._made(session).version
            key = held[number] if held else self._held(session)[number]
            nonce = os.urandom(NONCE_BYTES)
            sealed = self._encrypted(key, nonce, data_key, self._id(number), context)
            return WrappedKey(self._id(number), nonce + sealed)

        return self._with_session(work)

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """See ``KeyService.unwrap``."""

        def work(session: pkcs11.Session) -> bytes:
            key = self._key(session, wrapped.key_id)
            return self._decrypted(key, wrapped, context)

        return self._with_session(work)

    def rotate(self) -> KeyVersion:
        """See ``KeyService.rotate``, of the wrapping key."""

        def work(session: pkcs11.Session) -> KeyVersion:
            if not self._held(session):
                self._made(session)
            return self._made(session)

        return self._with_session(work)

    def versions(self) -> Sequence[KeyVersion]:
        """See ``KeyService.versions``, of the wrapping key."""
        return self._with_session(self._versions)

    def discard(self, key_id: str) -> None:
        """See ``KeyService.discard``: the object is destroyed in the module."""

        def work(session: pkcs11.Session) -> None:
            key = self._key(session, key_id)
            if key_id == self._versions(session)[-1].id:
                raise still_active(key_id)
            key.destroy()

        self._with_session(work)

    # The objects.

    def _id(self, number: int) -> str:
        return f"{self._place.prefix}-{WRAPPING}:v{number}"

    def _number(self, label: str) -> int:
        """The version of a label; 0 if it is none of ours."""
        found = re.fullmatch(rf"{self._place.prefix}-{WRAPPING}:v([1-9][0-9]{{0,8}})", label)
        return int(found[1]) if found else 0

    def _held(self, session: pkcs11.Session) -> dict[int, Any]:
        import pkcs11

        wanted = {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
            pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.AES,
        }
        found: dict[int, Any] = {}
        for key in session.get_objects(wanted):
            number = self._number(str(key[pkcs11.Attribute.LABEL]))
            if number:
                found[number] = key
        return found

    def _key(self, session: pkcs11.Session, key_id: str) -> Any:
        number = self._number(key_id)
        found = self._held(session).get(number) if number else None
        if found is None:
            raise UnknownKey(
                f"The hardware module holds no key {key_id[:80]!r}, or not any more.",
                hint="Use the token that this data was made with, or restore it from its backup.",
            )
        return found

    def _made(self, session: pkcs11.Session) -> KeyVersion:
        import pkcs11

        with _alone(self._lock_file):
            number = max(self._held(session), default=0) + 1
            session.generate_key(
                pkcs11.KeyType.AES,
                256,
                id=microseconds(self._clock.now()).to_bytes(8, "big"),
                label=self._id(number),
                store=True,
                template={
                    pkcs11.Attribute.SENSITIVE: True,
                    pkcs11.Attribute.EXTRACTABLE: False,
                },
            )
        return self._versions(session)[-1]

    def _versions(self, session: pkcs11.Session) -> list[KeyVersion]:
        import pkcs11

        held = self._held(session)
        return [
            KeyVersion(
                self._id(number),
                WRAPPING,
                number,
                AES,
                from_microseconds(int.from_bytes(held[number][pkcs11.Attribute.ID], "big")),
                KeyState.ACTIVE if number == max(held) else KeyState.RETIRED,
            )
            for number in sorted(held)
        ]

    def _encrypted(
        self, key: Any, nonce: bytes, data_key: bytes, key_id: str, context: str
    ) -> bytes:
        import pkcs11
        from pkcs11.mechanisms import GCMParams

        parameters = GCMParams(nonce, _authenticated(key_id, context), _TAG_BITS)
        return bytes(
            key.encrypt(data_key, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters)
        )

    def _decrypted(self, key: Any, wrapped: WrappedKey, context: str) -> bytes:
        import pkcs11
        from pkcs11.mechanisms import GCMParams

        nonce, sealed = wrapped.value[:NONCE_BYTES], wrapped.value[NONCE_BYTES:]
        wrong = Corrupt(
            f"A data key for {context[:200]!r} was changed, or belongs to something else.",
            hint="Restore what it opens from a backup; see `falaj audit search`.",
        )
        if len(nonce) != NONCE_BYTES or len(sealed) < _TAG_BITS // 8:
            raise wrong
        parameters = GCMParams(nonce, _authenticated(wrapped.key_id, context), _TAG_BITS)
        try:
            return bytes(
                key.decrypt(sealed, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters)
            )
        except (pkcs11.EncryptedDataInvalid, pkcs11.EncryptedDataLenRange):
            raise wrong from None
        except pkcs11.GeneralError:
            # SoftHSM says no more than this of a wrong tag: does the key work at all?
            self._encrypted(key, os.urandom(NONCE_BYTES), bytes(16), wrapped.key_id, "probe")
            raise wrong from None

    # The session.

    def _with_session(self, work: Callable[[pkcs11.Session], T]) -> T:
        pkcs11 = _library()
        device = self._device
        with device.lock:
            for last in (False, True):
                try:
                    return work(self._session())
                except FalajError:
                    raise
                except (pkcs11.PinIncorrect, pkcs11.PinLocked, pkcs11.PinInvalid) as error:
                    device.session = None
                    raise ComponentRefused(
                        f"The token {self._place.token!r} refuses its PIN "
                        f"({type(error).__name__}).",
                        hint="Set the right FALAJ_KEY_SERVICE__PIN; a locked one is set anew by "
                        "the module's security officer.",
                    ) from None
                except pkcs11.PKCS11Error as error:
                    device.session = None  # the module was restarted, or is gone
                    if last:
                        raise self._gone(error) from None
        raise AssertionError("unreachable")

    def _session(self) -> pkcs11.Session:
        import pkcs11

        device, place = self._device, self._place
        if device.session is not None and device.pid == os.getpid():
            return device.session
        library = pkcs11.lib(place.module)
        if device.pid not in (0, os.getpid()):
            library.reinitialize()  # a forked process has no module of its own yet
        token = library.get_token(token_label=place.token)
        try:
            opened = token.open(rw=True, user_pin=place.pin)
        except pkcs11.UserAlreadyLoggedIn:
            opened = token.open(rw=True)
        device.session, device.pid = opened, os.getpid()
        return opened

    def _gone(self, error: Exception) -> Unavailable:
        told = str(error) or type(error).__name__
        return Unavailable(
            f"The token {self._place.token!r} of {self._place.module} does not answer: {told}.",
            hint="Check the setting keys and the module's own tools; see `falaj doctor`.",
        )


def _library() -> Any:
    try:
        import pkcs11
    except ModuleNotFoundError:
        raise Unavailable(
            "Keys in a hardware module need the Python package python-pkcs11.",
            hint="Install it with `pip install 'falaj[hsm]'`.",
        ) from None
    return pkcs11


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _authenticated(key_id: str, context: str) -> bytes:
    return _LABEL + key_id.encode() + b"\0" + context.encode()

"""A keyring file that a device or a cloud service seals."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from falaj.trust.adapters.keys_file import FileKeyring
from falaj.trust.keys import KEY_BYTES
from falaj.trust.keys_hybrid import WrappingKeys
from falaj.trust.ports import WrappedKey

_CONTEXT = "keyring"


class RemoteSeal:
    """Seals a keyring with a data key that stands in the file, wrapped by somebody else.

    Args:
        method: as the file says what seals it: ``pkcs11``, ``aws-kms``.
        wrapping: wraps and unwraps that data key.
    """

    def __init__(self, method: str, wrapping: WrappingKeys) -> None:
        self.method = method
        self._wrapping = wrapping

    def fresh(self) -> dict[str, Any]:
        """A new data key, wrapped."""
        return {"wrapped": self._wrapping.wrap(os.urandom(KEY_BYTES), context=_CONTEXT).to_text()}

    def key(self, parameters: Mapping[str, Any]) -> bytes:
        """The data key; raises what unwrapping raises."""
        wrapped = WrappedKey.parse(str(parameters["wrapped"]))
        return self._wrapping.unwrap(wrapped, context=_CONTEXT)


class SealedKeyring:
    """The seal of such a keyring, as something to be rewrapped; its one item is the file."""

    name = "keyring"

    def __init__(self, keyring: FileKeyring, seal: RemoteSeal) -> None:
        self._keyring = keyring
        self._seal = seal

    def items(self, *, after: str = "") -> Iterator[tuple[str, str]]:
        """See ``Rewrappable.items``."""
        if after < self.name:
            wrapped = WrappedKey.parse(str(self._keyring.sealed_by["wrapped"]))
            yield self.name, wrapped.key_id

    def rewrap(self, item: str) -> bool:
        """See ``Rewrappable.rewrap``: the file is sealed anew, with a new data key."""
        self._keyring.reseal(self._seal)
        return True

    def reseal(self, item: str) -> bool:
        """See ``Rewrappable.reseal``."""
        return self.rewrap(item)

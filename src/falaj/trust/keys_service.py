"""The actions of the key service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel

from falaj.kernel.actions import Service, action
from falaj.kernel.errors import NotFound
from falaj.trust.ports import KeyService, KeyState, KeyVersion


class KeyInfo(BaseModel):
    """One version of a key, without its secret."""

    id: str
    purpose: str
    """``wrapping``, or what it signs."""
    version: int
    algorithm: str
    created_at: datetime
    state: KeyState


class Keys(Service):
    """The keys that seal and sign: which there are, and their rotation."""

    name = "keys"

    def __init__(self, keys: KeyService) -> None:
        self._keys = keys

    @action(get="/keys")
    def list(self) -> Sequence[KeyInfo]:
        """All versions of all keys, without their secrets."""
        return [_info(version) for version in self._keys.versions()]

    @action(post="/keys/{purpose}/rotations", on="key", step_up=True)
    def rotate(self, purpose: str) -> KeyInfo:
        """Make a new version for a purpose; older ones still open and verify.

        The new version stays even if the record of this call cannot be kept.
        """
        known = sorted({version.purpose for version in self._keys.versions()})
        if purpose not in known:
            # A mistyped purpose would leave the meant key as it is, and say that all is well.
            raise NotFound(
                f"No key has the purpose {purpose!r}.", hint=f"There are: {', '.join(known)}."
            )
        made = _info(self._keys.rotate(purpose))
        self.call.note(key_id=made.id, version=made.version)
        self.call.emit("keys.rotated", purpose=made.purpose, key_id=made.id)
        return made


def _info(version: KeyVersion) -> KeyInfo:
    return KeyInfo(
        id=version.id,
        purpose=version.purpose,
        version=version.version,
        algorithm=version.algorithm,
        created_at=version.created_at,
        state=version.state,
    )

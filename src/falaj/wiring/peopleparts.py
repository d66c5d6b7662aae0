"""The parts of people at the front: passkeys, sessions of browsers, codes for devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.trust.passkeysignin import PasskeySignIn

if TYPE_CHECKING:
    from falaj.trust.passkeys import RelyingParty
    from falaj.wiring.assembly import Premises


def passkey_sign_in(made: Premises, party: RelyingParty) -> PasskeySignIn:
    """The exchanges with passkeys of a platform that browsers know as ``party``."""
    return PasskeySignIn(made.authentication, party, made.keys.derive("passkey-challenges"))

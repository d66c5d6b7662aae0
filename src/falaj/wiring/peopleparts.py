"""The parts of people at the front: passkeys, sessions of browsers, codes for devices."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from falaj.trust.devices import DeviceCodes
from falaj.trust.passkeysignin import PasskeySignIn
from falaj.trust.websessions import WebSessions

if TYPE_CHECKING:
    from falaj.trust.passkeys import RelyingParty
    from falaj.wiring.assembly import Premises


def passkey_sign_in(made: Premises, party: RelyingParty) -> PasskeySignIn:
    """The exchanges with passkeys of a platform that browsers know as ``party``."""
    return PasskeySignIn(made.authentication, party, made.keys.derive("passkey-challenges"))


def web_sessions(made: Premises) -> WebSessions:
    """The sessions of browsers."""
    idle = timedelta(hours=made.settings.sign_in.session_hours)
    return WebSessions(made.authentication, idle=idle)


def device_codes(made: Premises, origin: str) -> DeviceCodes:
    """Codes for devices, which are typed on a page at ``origin``."""
    lasts = timedelta(minutes=made.settings.sign_in.device_minutes)
    return DeviceCodes(
        made.authentication,
        page=f"{origin}/device",
        lasts=lasts,
        providers=tuple(made.settings.identity.providers),
    )

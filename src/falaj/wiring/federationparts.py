"""The identity providers that the settings name, and what signs people in through them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.trust.adapters.oidc_http import HttpProvider
from falaj.trust.federation import Federation, Party
from falaj.trust.federation_logout import FederatedLogout
from falaj.trust.oidc_presets import provider_of

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def party(made: Premises, name: str) -> Party:
    """One provider of the settings; raises InvalidInput if what they say of it is wrong."""
    given = made.settings.identity.providers[name]
    provider = provider_of(name, given)
    speaks = HttpProvider(provider, made.settings.outgoing, clock=made.clock, ca_file=given.ca_file)
    return Party(provider, speaks)


def federation(made: Premises) -> Federation:
    """Signs people in through all providers of the settings; asks none of them yet."""
    parties = {name: party(made, name) for name in made.settings.identity.providers}
    return Federation(made.authentication, parties, made.keys.derive("provider-journeys"))


def federated_logout(made: Premises, through: Federation) -> FederatedLogout:
    """Ends sessions because a provider says so."""
    return FederatedLogout(made.authentication, through)

"""All that people meet at the control plane: pages, passkeys, codes for devices, providers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.interfaces.accountpage import add_account_page
from falaj.interfaces.devicepage import add_device_page, add_device_routes
from falaj.interfaces.endpointpages import add_endpoint_pages
from falaj.interfaces.federated import add_federation
from falaj.interfaces.hosts import Addresses
from falaj.interfaces.monitorpages import add_monitor_pages
from falaj.interfaces.operationpages import add_operation_pages
from falaj.interfaces.pages import add_pages
from falaj.interfaces.passkeyroutes import add_passkey_routes
from falaj.interfaces.rolloutpages import add_rollout_pages
from falaj.interfaces.routing import Application
from falaj.interfaces.signin import add_sign_in
from falaj.interfaces.sourcepages import add_source_pages
from falaj.interfaces.visitors import Pages, People
from falaj.trust.passkeys import RelyingParty
from falaj.wiring.federationparts import federated_logout, federation
from falaj.wiring.peopleparts import device_codes, passkey_sign_in, web_sessions

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def add_people(app: Application, premises: Premises, addresses: Addresses, *, version: str) -> None:
    """Add pages and the exchanges of people to the control plane.

    Args:
        addresses: where browsers reach it, which decides whom passkeys are for.
        version: Falaj's, shown to those who are signed in.
    """
    party = RelyingParty(addresses.rp_id, addresses.origins)
    passkeys = passkey_sign_in(premises, party)
    origin = addresses.origins[0]
    pages = Pages(version=version)
    through = federation(premises)
    people = People(
        pages,
        premises.backend,
        premises.authentication,
        passkeys,
        web_sessions(premises),
        through,
        federated_logout(premises, through),
        addresses.origins,
    )
    devices = device_codes(premises, origin)
    add_pages(app, pages, premises.authentication, address=origin)
    add_passkey_routes(app, passkeys, premises.verifier)
    add_device_routes(app, devices, people)
    add_sign_in(app, people)
    add_account_page(app, people)
    add_endpoint_pages(app, people)
    add_monitor_pages(app, people)
    add_source_pages(app, people)
    add_rollout_pages(app, people)
    add_operation_pages(app, people)
    add_device_page(app, devices, people)
    add_federation(app, people)

"""A platform whose people sign in through a real provider, and browsers between the two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import select
from starlette.testclient import TestClient

from falaj.interfaces.processes import control_app
from falaj.kernel.settings import Settings
from falaj.testing.browsers import Browser, forms
from falaj.testing.oidcprovider import CLIENT_ID, AtProvider, OidcServer, led_to
from falaj.trust.audit_tables import audit_records
from falaj.trust.model import Account
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise

ORIGIN = "https://localhost:8443"
GROUPS = {
    "engineers": ("ml_engineer",),
    "watchers": ("viewer",),
    "admins": ("administrator",),
    "approvers": ("approver",),
}
"""What the groups of the provider ``corp`` give."""


class FederatedSite:
    """A platform with the providers ``corp``, ``strict`` and ``uae``, all of them one server.

    ``corp`` takes a factor of the platform's own in place of a proof of two, ``strict`` does
    not, makes no accounts (the service account ``directory`` may keep some by SCIM), and is
    told when somebody signs out here; ``uae`` is spoken to as to UAE PASS.

    Args:
        folder: an empty one.
        server: the provider.
        origin: where browsers find the platform.
        more: further settings.
    """

    def __init__(
        self, folder: Path, server: OidcServer, *, origin: str = ORIGIN, **more: Any
    ) -> None:
        self.server = server
        self.origin = origin
        settings = Settings.read(folder, identity=identity(server), **more)
        initialise(settings, owner="owner")
        self.premises: Premises = assemble(settings)
        names = ("corp", "strict", "uae")
        server.control(redirects=[f"{origin}/login/with/{name}/callback" for name in names])
        self.app = control_app(self.premises)

    def close(self) -> None:
        """Give everything back."""
        self.premises.close()

    def browser(self) -> Browser:
        """A browser that was never here."""
        return Browser(TestClient(self.app, base_url=self.origin, raise_server_exceptions=False))

    def person(self, **world: Any) -> AtProvider:
        """A browser before the provider, which knows its person as ``world`` says."""
        self.server.control(honest=True, world=world)
        return AtProvider(self.server)

    def leaves(self, browser: Browser, name: str = "corp", then: str = "") -> str:
        """Press "Sign in with …"; where the browser is led."""
        page = browser.open(f"/login?next={then}" if then else "/login")
        return led_to(browser.send(page, f"/login/with/{name}"))

    def back(self, browser: Browser, address: str) -> httpx.Response:
        """Come back from the provider with what it has written into the address."""
        parts = urlsplit(address)
        return browser.open(f"{parts.path}?{parts.query}")

    def signs_in(
        self, browser: Browser, person: AtProvider, name: str = "corp", then: str = ""
    ) -> httpx.Response:
        """There and back; the page that the browser gets in the end."""
        return self.back(browser, person.visit(self.leaves(browser, name, then)))

    def presses(self, browser: Browser, page: str, action: str, person: AtProvider) -> Any:
        """Send a form of a page that leads to the provider; the page in the end."""
        away = led_to(browser.send(browser.open(page), action))
        return self.back(browser, person.visit(away))

    def account(self, name: str) -> Account:
        """An account."""
        with self.premises.database.reading() as connection:
            return self.premises.authentication.accounts.get(connection, name)

    def records(self, action: str = "auth.provider_login") -> list[dict[str, Any]]:
        """The audit records of an action, oldest first, with their outcomes."""
        with self.premises.database.reading() as connection:
            query = select(audit_records).where(audit_records.c.action == action)
            rows = connection.execute(query.order_by(audit_records.c.seq)).all()
        return [
            {**json.loads(row.body), "outcome": row.outcome, "principal": row.principal}
            for row in rows
        ]


def signed_in(browser: Browser) -> bool:
    """True if the account page opens."""
    return browser.open("/account").status_code == 200


def actions_of(page: httpx.Response) -> list[str]:
    """Where the forms of a page go."""
    return [form.action for form in forms(page)]


def identity(server: OidcServer) -> dict[str, Any]:
    """The setting ``identity`` of a platform that trusts the server."""
    party = {
        "issuer": server.issuer,
        "client_id": CLIENT_ID,
        "client_secret": server.client_secret,
        "ca_file": server.ca_file,
    }
    corp = {**party, "label": "Corp", "provision": True, "groups": GROUPS, "mfa_acr": ()}
    strict = {
        **party,
        "without_proof": "refuse",
        "sign_out_there": True,
        "provisioned_by": "directory",
    }
    uae = {
        **party,
        "preset": "uaepass",
        "scopes": ("openid", "urn:uae:digitalid:profile:general"),
        "provision": True,
        "roles": ("viewer",),
        "always_two_factors": True,
    }
    return {"providers": {"corp": corp, "strict": strict, "uae": uae}}

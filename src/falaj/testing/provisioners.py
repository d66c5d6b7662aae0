"""Identity providers for tests: a platform that one provisions, and the provider's requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.door import LocalDoor
from falaj.kernel.settings import Settings

if TYPE_CHECKING:
    import httpx

    from falaj.trust.model import Account, TokenPair

ORIGIN = "https://localhost:8443"
SCIM = "/scim/v2"
PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
MEDIA = "application/scim+json"
GROUPS: tuple[dict[str, Any], ...] = (
    {"group": "Engineers", "roles": ["ml_engineer", "data_scientist"]},
    {"group": "Viewers", "roles": ["viewer"]},
    {"group": "Approvers", "roles": ["approver"]},
    {"group": "Admins", "roles": ["administrator"], "provisioner": "entra"},
    {"group": "Auditors", "roles": ["auditor"], "external_id": "g-auditors"},
)


class ProvisionedSite:
    """A platform in this process, whose map of groups is ``GROUPS``, and its provisioners."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        from starlette.testclient import TestClient

        from falaj.interfaces.processes import control_app
        from falaj.wiring.assembly import Premises, assemble
        from falaj.wiring.setup import initialise

        given = {"provisioning": {"groups": GROUPS, "domain": "corp.ae"}, **settings}
        initialise(Settings.read(folder, **given), owner="owner")
        self.premises: Premises = assemble(Settings.read(folder, **given))
        self.app = control_app(self.premises)
        self.web = TestClient(self.app, base_url=ORIGIN, raise_server_exceptions=False)
        self._made = 0

    def new(self, what: str) -> str:
        """A name that was not used before."""
        self._made += 1
        return f"{what}{self._made}"

    def provider(self, name: str, *roles: str) -> Provider:
        """A service account with these roles (``provisioner``), and its requests."""
        made = self.ask("accounts.create_service", name=name, roles=roles or ("provisioner",))
        return Provider(self.web, made.secret.get_secret_value())

    def ask(self, action: str, /, *, caller: Caller | None = None, **arguments: Any) -> Any:
        """Call an action through the door, as an administrator with a fresh factor if nobody."""
        backend = self.premises.backend
        door = LocalDoor(backend, caller or self.administrator())
        return door.call(backend.services.actions[action], arguments)

    def administrator(self, name: str = "root") -> Caller:
        """Somebody who administers, with a fresh factor."""
        principal = Principal(f"user:{name}", PrincipalKind.USER, ("administrator",))
        return Caller(principal, mfa_at=self.premises.clock.now(), via="http")

    def account(self, name: str) -> Account:
        """An account as it stands."""
        with self.premises.database.reading() as connection:
            return self.premises.authentication.accounts.get(connection, name)

    def signed_in(self, name: str) -> TokenPair:
        """A session of an account, as a sign-in through its provider begins one."""
        parts = self.premises.authentication
        now = self.premises.clock.now()
        with self.premises.database.transaction() as connection:
            account = parts.accounts.get(connection, name)
            return parts.begun(connection, account, now, "test", None, mfa_at=None)

    def status(self, token: str) -> int:
        """What ``/api/me`` answers to a token."""
        headers = {"Authorization": f"Bearer {token}"}
        return int(self.web.get("/api/me", headers=headers).status_code)

    def records(self, action: str) -> list[dict[str, Any]]:
        """The audit records of an action, oldest first: outcome, and what its body says."""
        from falaj.trust.audit_tables import audit_records

        with self.premises.database.reading() as connection:
            query = select(audit_records).where(audit_records.c.action == action)
            rows = connection.execute(query.order_by(audit_records.c.seq)).all()
        return [
            {"outcome": row.outcome, "principal": row.principal, **json.loads(row.body)}
            for row in rows
        ]

    def forgiven(self) -> None:
        """All requests come from one address, which would have to wait after failures."""
        from falaj.trust.tables import attempts

        with self.premises.database.transaction() as connection:
            connection.execute(delete(attempts))


class Provider:
    """Sends what identity providers send.

    Args:
        web: reaches the control plane.
        token: a provisioner's secret, or an access token.
    """

    def __init__(self, web: httpx.Client, token: str) -> None:
        self.web = web
        self.token = token

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """The answer to a request below ``/scim/v2``."""
        sent = {"Authorization": f"Bearer {self.token}", "Content-Type": MEDIA}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = None if body is None else json.dumps(body).encode()
        return self.web.request(method, SCIM + path, content=content, headers=sent)

    def user(self, user_name: str, **more: Any) -> dict[str, Any]:
        """A new user, as it was answered."""
        answer = self.send("POST", "/Users", {"userName": user_name, **more})
        if answer.status_code != 201:
            raise AssertionError(answer.text)
        return dict(answer.json())

    def group(self, name: str, *members: str, **more: Any) -> httpx.Response:
        """The answer to a new group."""
        listed = [{"value": one} for one in members]
        return self.send("POST", "/Groups", {"displayName": name, "members": listed, **more})

    def patch(self, path: str, *operations: dict[str, Any], **headers: str) -> httpx.Response:
        """The answer to a PATCH."""
        body = {"schemas": [PATCH_OP], "Operations": list(operations)}
        return self.send("PATCH", path, body, **headers)

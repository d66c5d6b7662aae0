"""The exchange of a client certificate for a token: ``/auth/certificate-login``."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from falaj.interfaces.auth import Nothing, client_address, exchange_route
from falaj.interfaces.http import CERTIFICATE
from falaj.interfaces.routing import Application
from falaj.trust.certificatelogin import CertificateLogin


def add_certificate_routes(app: Application, logins: CertificateLogin) -> None:
    """Add ``/auth/certificate-login`` to the control plane."""

    def login(request: Request, _body: Nothing) -> Any:
        return logins.login(request.scope.get(CERTIFICATE), address=client_address(request))

    route = exchange_route(Nothing, login)
    app.answer("POST", "/auth/certificate-login", route)

"""A certificate for an access token: how programs log in without a secret."""

from __future__ import annotations

from falaj.kernel.ports import Outcome
from falaj.trust.authentication import Authentication
from falaj.trust.model import TokenPair, WrongCredentials
from falaj.trust.workload import ProgramCertificates

ACTION = "auth.certificate_login"


class CertificateLogin:
    """Exchanges the client certificate of a connection for a token that is bound to it.

    Args:
        authentication: the other exchanges, whose sessions these are.
        certificates: recognises the certificates of programs.
    """

    def __init__(self, authentication: Authentication, certificates: ProgramCertificates) -> None:
        self._authentication = authentication
        self._certificates = certificates

    def login(self, certificate: bytes | None, *, address: str | None = None) -> TokenPair:
        """An access token for a service account; it has no refresh token.

        Args:
            certificate: in DER, which TLS has checked; None if the connection has shown none.
            address: where the connection comes from.

        Raises:
            WrongCredentials: no certificate, or none that lets anybody in; the audit log says
                why. TooManyAttempts: as for ``Authentication.login``.
        """
        exchanges = self._authentication.exchanges
        exchanges.admitted(ACTION, address=address)
        now = exchanges.clock.now()
        pair: TokenPair | None = None
        principal: str | None = None
        reason = "no-certificate"
        with exchanges.database.transaction() as connection:
            try:
                if certificate is not None:
                    account, binding = self._certificates.recognised(
                        connection, certificate, now=now
                    )
                    principal, reason = account.principal_id, "certificate"
                    pair = self._authentication.begun_service(
                        connection, account, now, address, binding
                    )
            except WrongCredentials as refused:
                reason = refused.message
            if pair is None:
                exchanges.throttle.count(connection, name=None, address=address, now=now)
            exchanges.record(
                connection,
                ACTION,
                Outcome.DONE if pair else Outcome.REFUSED,
                reason,
                principal=principal,
                address=address,
                details={"session": pair.session} if pair else {},
            )
        if pair is None:
            raise WrongCredentials(
                "The connection shows no certificate that lets a program in.",
                hint="It may have run out or been revoked: get another with the account's secret.",
            )
        return pair

"""The actions on certificates of programs."""

from __future__ import annotations

from falaj.kernel.actions import Service, action
from falaj.kernel.call import PrincipalKind
from falaj.trust.model import AccountName
from falaj.trust.workload import IssuedCertificate, ProgramCertificate, ProgramCertificates


class CertificateService(Service):
    """Certificates with which programs prove who they are."""

    name = "certificates"

    def __init__(self, certificates: ProgramCertificates) -> None:
        self._certificates = certificates

    @action(post="/certificates/{account}", on="account")
    def issue(self, account: AccountName, request: str) -> IssuedCertificate:
        """Issue a certificate to a service account, for the key of its request (CSR).

        The account asks for itself, proven by its secret or by its present certificate; an
        administrator (with a fresh second factor) for a program that has neither yet.

        Args:
            account: whose certificate it is.
            request: a CSR (PEM); its key stays with the program. Names in it are not read.
        """
        call = self.call
        if call.principal.kind is PrincipalKind.SERVICE:
            self._certificates.must_stand(call.connection, account, call.caller, now=call.now)
        issued = self._certificates.issue(call.connection, account, request, now=call.now)
        call.note(serial=issued.serial, expires_at=issued.expires_at.isoformat())
        call.emit("certificate.issued", account=issued.account, serial=issued.serial)
        return issued

    @action(get="/certificates")
    def list(self, account: AccountName | None = None) -> tuple[ProgramCertificate, ...]:
        """Certificates of programs that have not run out, the newest first."""
        call = self.call
        return tuple(self._certificates.of(call.connection, account, now=call.now))

    @action(post="/certificates/{account}/revocation", on="account", step_up=True)
    def revoke(self, account: AccountName, serial: str | None = None) -> int:
        """Revoke one certificate of an account, or all; returns how many were still good.

        They log in no more at once, and their tokens are refused within a second.
        """
        call = self.call
        because = f"revoked by {call.principal.id}"
        revoked = self._certificates.revoke(
            call.connection, account, serial, now=call.now, because=because
        )
        call.emit("certificate.revoked", account=account, n_certificates=revoked)
        return revoked

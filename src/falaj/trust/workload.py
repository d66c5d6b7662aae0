"""Certificates of programs: short, issued against a request, renewed by themselves, revocable.

A service account proves who it is (by its secret, or by the certificate that it has) and sends
a request (CSR) signed by a fresh key, which never leaves the program. What it gets back is
good for an hour, names the account alone and opens nothing by itself: it is exchanged for an
access token that is worth nothing without the key. So a revoked certificate ends with its
sessions: at the exchange at once, everywhere else within a second.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Select, delete, func, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.call import Caller, PrincipalKind
from falaj.kernel.errors import Forbidden, InvalidInput, LimitExceeded, NotFound
from falaj.trust.accounts import Accounts
from falaj.trust.bindings import Binding, BindingKind, thumbprint
from falaj.trust.certificate_tables import program_certificates as table
from falaj.trust.certificates import CertificateAuthority
from falaj.trust.identities import SERVICE, Identity, service_identity
from falaj.trust.model import Account, AccountState, WrongCredentials
from falaj.trust.pemfiles import pem
from falaj.trust.sessions import PROGRAM, Sessions
from falaj.trust.tables import accounts as accounts_table
from falaj.trust.tables import sessions

VALID = timedelta(hours=1)
REMEMBERED = timedelta(days=30)
_MOST_GOOD = 1_000
_LONGEST_REQUEST = 8 * 1024
_CURVES = (ec.SECP256R1, ec.SECP384R1)


class ProgramCertificate(BaseModel):
    """A certificate that was issued to a program."""

    model_config = ConfigDict(frozen=True)

    serial: str
    """In hex."""
    account: str
    identity: str
    """``spiffe://falaj/service/ci``."""
    thumbprint: str
    """``x5t#S256``: of its DER, in base64url."""
    issued_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
    revoked_because: str | None = None


class IssuedCertificate(ProgramCertificate):
    """A new certificate; its key is where the request was made, and nowhere else."""

    certificate: str
    """PEM."""
    authority: str
    """The certificate (PEM) of the authority that signed it."""


class ProgramCertificates:
    """Issues, lists, revokes and recognises the certificates of service accounts.

    Args:
        accounts, sessions: whose they are, and what was begun with them.
        authority: signs; it is made when it is first needed.
        trust_domain: the first part of each identity.
        valid: how long a certificate is good.
        foreign: True if TLS trusts further authorities, whose certificates are not listed
            here and are told apart by their identity alone.

    Each method works in the caller's transaction.
    """

    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        authority: Callable[[], CertificateAuthority],
        *,
        trust_domain: str,
        valid: timedelta = VALID,
        foreign: bool = False,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._authority = authority
        self._domain = trust_domain
        self._valid = valid
        self._foreign = foreign

    def issue(
        self, connection: Connection, name: str, request: str, *, now: datetime
    ) -> IssuedCertificate:
        """A certificate for a service account; what the request says besides its key is not read.

        Raises:
            Forbidden: the account is a person's, or is not active.
            InvalidInput: the request is not signed by its key, or the key is of no use.
            LimitExceeded: the account has a thousand good certificates.
        """
        account = self._accounts.get(connection, name)
        if account.kind is not PrincipalKind.SERVICE or account.state is not AccountState.ACTIVE:
            raise Forbidden(
                f"{name!r} is not an active service account.",
                hint="Certificates are for programs; people sign in with a factor.",
            )
        public = _requested(request)
        connection.execute(delete(table).where(table.c.expires_at < now - REMEMBERED))
        good = select(func.count()).where(table.c.account == account.id, table.c.expires_at > now)
        if connection.execute(good).scalar_one() >= _MOST_GOOD:
            raise LimitExceeded(
                f"{name!r} has {_MOST_GOOD} certificates that are still good.",
                hint="Renew one when half of its time is over, not with each call.",
            )
        identity = str(service_identity(self._domain, name))
        made, authority = self._authority().program_certificate(public, identity, valid=self._valid)
        kept = {
            "serial": f"{made.serial_number:x}",
            "identity": identity,
            "thumbprint": thumbprint(made.public_bytes(serialization.Encoding.DER)),
            "issued_at": now,
            "expires_at": made.not_valid_after_utc,
        }
        connection.execute(insert(table).values(account=account.id, **kept))
        return IssuedCertificate(
            account=name,
            certificate=pem(made).decode(),
            authority=pem(authority).decode(),
            **kept,
        )

    def must_stand(
        self, connection: Connection, name: str, caller: Caller, *, now: datetime
    ) -> None:
        """Return if a program logged in by its secret or a certificate, and that still holds.

        A token of a CI job, of fewer roles and for some minutes, must not become a certificate
        that renews itself. The account is locked: a revocation is before this or behind it.

        Raises:
            Forbidden: it did not, or was put out meanwhile.
        """
        account = self._accounts.locked(connection, name)
        query = select(sessions.c.client).where(
            sessions.c.id == caller.session,
            sessions.c.account == account.id,
            sessions.c.revoked_at.is_(None),
            sessions.c.expires_at > now,
        )
        client = connection.execute(query).scalar()
        if client != PROGRAM or caller.epoch != account.epoch:
            raise Forbidden(
                f"A certificate of {name!r} is given to who logged in with its secret, or with a "
                "certificate that is still good.",
                hint="Log in with the secret; a CI job's token is for that job alone.",
            )

    def of(
        self, connection: Connection, account: str | None, *, now: datetime
    ) -> list[ProgramCertificate]:
        """The certificates that have not run out, the newest first; of one account, or of all."""
        query = _joined().where(table.c.expires_at > now)
        if account is not None:
            query = query.where(accounts_table.c.name == account)
        rows = connection.execute(query.order_by(table.c.issued_at.desc(), table.c.serial))
        return [_certificate(row) for row in rows.mappings()]

    def revoke(
        self,
        connection: Connection,
        name: str,
        serial: str | None,
        *,
        now: datetime,
        because: str,
    ) -> int:
        """Revoke one certificate of an account, or all; ends what was begun with them.

        Returns how many were still good.

        Raises:
            NotFound: no such account, or it has no certificate of that serial number.
        """
        account = self._accounts.locked(connection, name)
        query = select(table.c.serial, table.c.thumbprint, table.c.expires_at).where(
            table.c.account == account.id, table.c.revoked_at.is_(None)
        )
        if serial is not None:
            query = query.where(table.c.serial == serial)
        rows = connection.execute(query).all()
        if serial is not None and not rows and not self._is_known(connection, account, serial):
            raise NotFound(
                f"{name!r} has no certificate {serial[:80]!r}.",
                hint="See `falaj certificates list`.",
            )
        for row in rows:
            connection.execute(
                update(table)
                .where(table.c.serial == row.serial)
                .values(revoked_at=now, revoked_because=because[:200])
            )
            binding = Binding(BindingKind.CERTIFICATE, row.thumbprint)
            self._sessions.end_bound(
                connection, binding, now=now, because="certificate revoked", account=account
            )
        return sum(row.expires_at > now for row in rows)

    def recognised(
        self, connection: Connection, certificate: bytes, *, now: datetime
    ) -> tuple[Account, Binding]:
        """The account of a certificate that TLS has checked, and what its tokens are bound to.

        Args:
            certificate: in DER, as the connection has shown it.

        Raises:
            WrongCredentials: it has run out or was revoked, it is none of a service account
                of this platform, or that account is not active. The reason is its text.
        """
        held = x509.load_der_x509_certificate(certificate)
        if not held.not_valid_before_utc <= now < held.not_valid_after_utc:
            raise WrongCredentials("certificate-expired")
        try:
            identity = Identity.of(held)
        except InvalidInput:
            raise WrongCredentials("certificate-without-identity") from None
        if identity.domain != self._domain or identity.path[:-1] != (SERVICE,):
            raise WrongCredentials("certificate-of-another")
        digest = thumbprint(certificate)
        row = connection.execute(_joined().where(table.c.thumbprint == digest)).mappings().first()
        if row is None and not (self._foreign and self._is_foreign(held)):
            raise WrongCredentials("certificate-unknown")
        if row is not None and row["revoked_at"] is not None:
            raise WrongCredentials("certificate-revoked")
        if row is not None and row["account_name"] != identity.path[-1]:
            raise WrongCredentials("certificate-of-another")
        try:
            account = self._accounts.get(connection, identity.path[-1])
        except NotFound:
            raise WrongCredentials("no-account") from None
        if account.kind is not PrincipalKind.SERVICE or account.state is not AccountState.ACTIVE:
            raise WrongCredentials("no-account")
        return account, Binding(BindingKind.CERTIFICATE, digest)

    def _is_foreign(self, held: x509.Certificate) -> bool:
        """True if another authority than the built-in one has signed it."""
        try:
            held.verify_directly_issued_by(self._authority().checked())
        except (InvalidSignature, ValueError, TypeError):
            return True
        return False

    def _is_known(self, connection: Connection, account: Account, serial: str) -> bool:
        query = select(table.c.serial).where(
            table.c.account == account.id, table.c.serial == serial
        )
        return connection.execute(query).first() is not None


def checked_shown(shown: bytes | None, authority: x509.Certificate, now: datetime) -> None:
    """Return if a connection has shown a good certificate of this very authority.

    Args:
        shown: in DER; None if it has shown none.
        authority: the one that must have signed it.
        now: this instant.

    Raises:
        Forbidden: it has not.
    """
    try:
        if shown is None:
            raise ValueError("none")
        held = x509.load_der_x509_certificate(shown)
        held.verify_directly_issued_by(authority)
        Identity.of(held)
        if not held.not_valid_before_utc <= now < held.not_valid_after_utc:
            raise ValueError("expired")
    except (InvalidSignature, InvalidInput, ValueError, TypeError):
        raise Forbidden(
            "Metrics are for those who show a certificate of this platform's authority.",
            hint="Get one with `falaj certify`, or unset certificates.metrics_need_certificate.",
        ) from None


def _requested(request: str) -> CertificatePublicKeyTypes:
    """The key of a request (CSR); raises InvalidInput."""
    if len(request) > _LONGEST_REQUEST:
        raise InvalidInput(f"A certificate's request has at most {_LONGEST_REQUEST} characters.")
    try:
        parsed = x509.load_pem_x509_csr(request.encode())
        signed, public = parsed.is_signature_valid, parsed.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise InvalidInput(
            "The request for a certificate is not a CSR in PEM.",
            hint="`openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 …` makes one.",
        ) from None
    if not signed:
        raise InvalidInput("The request for a certificate is not signed by its own key.")
    of_curve = isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, _CURVES)
    if not (of_curve or isinstance(public, Ed25519PublicKey)):
        raise InvalidInput(
            "The key of the request is neither ECDSA over P-256 or P-384 nor Ed25519.",
            hint="Make a key of one of these kinds.",
        )
    return public


def _joined() -> Select[Any]:
    return select(table, accounts_table.c.name.label("account_name")).join(
        accounts_table, accounts_table.c.id == table.c.account
    )


def _certificate(row: RowMapping) -> ProgramCertificate:
    return ProgramCertificate(
        **{name: row[name] for name in ProgramCertificate.model_fields if name != "account"},
        account=row["account_name"],
    )

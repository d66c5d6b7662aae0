"""SPIFFE identities: who a certificate is of, in one URI (``spiffe://falaj/service/ci``).

The form is that of SPIFFE's X.509-SVID: one URI among the names of the certificate, with the
trust domain as its authority and a path of plain words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from falaj.kernel.errors import InvalidInput

SERVICE = "service"
"""The first word of a service account's path."""
_FORM = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]{1,128}){1,8})")
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a program is, within a trust domain."""

    domain: str
    path: tuple[str, ...]
    """``("service", "ci")``, ``("worker", "inference-1")``."""

    def __str__(self) -> str:
        return f"spiffe://{self.domain}/{'/'.join(self.path)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an identity; raises InvalidInput."""
        found = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
        path = tuple(found.group(2).split("/")[1:]) if found else ()
        if found is None or {".", ".."} & set(path):
            raise InvalidInput(
                f"{text[:100]!r} is not a SPIFFE identity.",
                hint="It reads spiffe://trust-domain/service/name.",
            )
        return cls(found.group(1), path)

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """The identity that a certificate of a client gives; raises InvalidInput."""
        try:
            names = certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value.get_values_for_type(x509.UniformResourceIdentifier)
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except (x509.ExtensionNotFound, ValueError):
            names, usage = [], x509.ExtendedKeyUsage([])
        if len(names) != 1 or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
            raise InvalidInput(
                "The certificate is not one with which a program proves who it is.",
                hint="It needs one URI among its names, and the usage clientAuth.",
            )
        return cls.parse(names[0])


def service_identity(domain: str, name: str) -> Identity:
    """The identity of a service account."""
    return Identity(domain, (SERVICE, name))


def process_identity(domain: str, role: str, name: str) -> Identity:
    """The identity of one of the platform's own processes: ``worker/inference-1``."""
    return Identity(domain, (role, name))

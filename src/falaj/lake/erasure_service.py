"""The actions of privacy: where a person's data is, and its erasure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, SecretStr

from falaj.kernel.actions import Service, action
from falaj.lake.erasure import Certificate, Erasures, Holding, hashed
from falaj.lake.model import TABLE_NAME
from falaj.trust.subjects import Subject

if TYPE_CHECKING:
    from falaj.lake.sealing import Sealing

Kind = Annotated[str, Field(pattern=TABLE_NAME.pattern)]
Limit = Annotated[int, Field(ge=1, le=1000)]


class Erased(BaseModel):
    """What an erasure leaves: its certificate, and the receipt that ties it to the person."""

    certificate: Certificate
    receipt: str
    """Shown once. File it with the request: with the name it proves whom this is about."""


class Proof(BaseModel):
    """Whether a certificate is about a person."""

    certificate: Certificate
    about_them: bool


class Sealed(BaseModel):
    """A table whose rows were written anew, sealed."""

    table: str
    n_rows: int
    snapshot: int
    n_snapshots_expired: int


Holdings = list[Holding]
Certificates = list[Certificate]


class PrivacyService(Service):
    """Personal data: where a person's rows stand, and their erasure."""

    name = "privacy"

    def __init__(self, erasures: Erasures, sealing: Callable[[], Sealing]) -> None:
        self._erasures = erasures
        self._sealing = sealing

    @action(post="/privacy/searches", step_up=True)
    def find(self, subject: SecretStr, *, kind: Kind = "person") -> Holdings:
        """Which stores hold rows about a person, with their numbers, for an access request."""
        found = self._erasures.find(_subject(kind, subject))
        self.call.note(kind=kind, n_rows=sum(one.n_rows for one in found))
        return found

    @action(post="/privacy/erasures", step_up=True)
    def erase(self, subject: SecretStr, *, reason: str, kind: Kind = "person") -> Erased:
        """Erase a person: destroy the key that every copy of their personal fields is under.

        It cannot be taken back. Rows stay without what was personal in them; online values
        are removed. Neither the audit record nor the certificate holds the name.
        """
        certificate, receipt = self._erasures.erase(self.call, _subject(kind, subject), reason)
        self.call.note(
            certificate=certificate.id,
            sequence=certificate.sequence,
            subject_hash=certificate.subject_hash,
            kind=kind,
        )
        self.call.emit("subject.erased", certificate=certificate.id)
        return Erased(certificate=certificate, receipt=receipt)

    @action(get="/privacy/certificates")
    def certificates(self, limit: Limit = 100) -> Certificates:
        """The certificates of erasures, the newest first, with their signatures checked.

        Destructions of keys that no certificate tells of (a backup from before them was
        restored) are told too, without who and why.
        """
        return self._erasures.all_certificates(self.call.connection, limit=limit)

    @action(post="/privacy/proofs")
    def prove(
        self, certificate: str, *, subject: SecretStr, receipt: SecretStr, kind: Kind = "person"
    ) -> Proof:
        """Whether a certificate is about a person, by the receipt that its erasure gave."""
        found = self._erasures.certificate(self.call.connection, certificate)
        said = hashed(_subject(kind, subject), receipt.get_secret_value())
        return Proof(certificate=found, about_them=said == found.subject_hash)

    @action(post="/privacy/tables/{table}/sealing", on="table", step_up=True)
    def seal(self, table: str, *, expire_snapshots: bool = False) -> Sealed:
        """Write a table anew, so that rows from before its personal rule are sealed too.

        Older snapshots still hold them in clear. ``expire_snapshots`` forgets all snapshots
        of the lake but the latest and deletes their files: what was pinned to them (training
        sets, tables as of a moment) cannot be read as it was any more.
        """
        found = self._sealing().seal(table, expire_snapshots=expire_snapshots)
        self.call.note(table=table, snapshot=found.snapshot, expired=found.n_expired)
        return Sealed(
            table=table,
            n_rows=found.n_rows,
            snapshot=found.snapshot,
            n_snapshots_expired=found.n_expired,
        )


def _subject(kind: str, name: SecretStr) -> Subject:
    return Subject(kind, name.get_secret_value())


__all__ = ["PrivacyService"]

"""Erasing a data subject: its key is destroyed, and what was done stands in a certificate.

A certificate names the pseudonym, not the person: together with the name it would say for
ever whose the rows in clear columns were. Instead it holds a keyed hash of the name, under a
random *receipt* that only whoever asked for the erasure is given. With the receipt the
officer proves later that the certificate is about this person; the platform alone cannot.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from sqlalchemy import insert, select

from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.lake.tables import certificate_rows
from falaj.trust.ports import KeyService, Signature
from falaj.trust.subjects import Destroyed, Subject, SubjectCopies, SubjectKey, SubjectKeys

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.lake.sealedcolumns import SubjectLake

SIGNED_FOR = "erasures"
"""The purpose of the key that signs certificates."""
UNKNOWN = "(not recorded)"
_SHORTEST_NAME = 3
_MOST_BEGUN = 8


class Holding(BaseModel):
    """Rows about a subject in one place."""

    store: str
    """``lake``, ``online store``, …"""
    where: str
    """The table or view."""
    n_rows: int


class LookedThrough(BaseModel):
    """What an erasure did in one store."""

    store: str
    n_rows: int
    """Rows about the subject that were there: unreadable from then on."""
    n_removed: int
    """Rows of them that were taken out; the others stay without what was personal."""


class Certificate(BaseModel):
    """That a subject was erased."""

    id: str
    sequence: int
    """Counts the destructions of keys in this installation."""
    pseudonym: str
    """16 hexadecimal digits."""
    erased_at: datetime
    erased_by: str
    reason: str
    subject_hash: str
    """HMAC-SHA256 of kind and name under the receipt, in hex; empty where nobody got one."""
    looked_through: tuple[LookedThrough, ...]
    key_id: str = ""
    """Which version of the signing key has signed it."""
    signed: bool | None = None
    """True if the signature was checked and is of this installation."""

    def statement(self) -> bytes:
        """What is signed: canonical JSON."""
        said = self.model_dump(mode="json", exclude={"key_id", "signed"})
        return json.dumps(said, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class LakeCopies:
    """The lake as a ``SubjectCopies``: its rows stay, without what was personal."""

    lake: SubjectLake
    name: str = "lake"

    def count(self, key: SubjectKey) -> dict[str, int]:
        """See ``SubjectCopies.count``."""
        return self.lake.count_rows(key)

    def forget(self, key: SubjectKey) -> int:
        """See ``SubjectCopies.forget``: nothing is taken out."""
        del key
        return 0


class Erasures:
    """Finds and erases subjects.

    Args:
        keys: of the subjects.
        copies: the stores with rows about subjects.
        signer: signs certificates.
    """

    def __init__(
        self,
        keys: SubjectKeys,
        copies: Callable[[], Sequence[SubjectCopies]],
        signer: KeyService,
    ) -> None:
        self._keys = keys
        self._copies = copies
        self._signer = signer
        self._begun: dict[str, tuple[SubjectKey, Destroyed, dict[str, int]]] = {}

    def find(self, subject: Subject) -> list[Holding]:
        """Where rows about a subject stand; none if it has no key."""
        (key,) = self._keys.of([subject], make=False)
        if key is None:
            return []
        return [
            Holding(store=copies.name, where=where, n_rows=n)
            for copies in self._copies()
            for where, n in sorted(copies.count(key).items())
        ]

    def erase(self, call: Call, subject: Subject, reason: str) -> tuple[Certificate, str]:
        """Destroy a subject's key, remove what stores can remove, and certify it.

        The key is destroyed before anything is recorded, since the record can be completed
        and a key cannot come back: a destruction whose call failed afterwards is told by
        ``uncertified``. A call that is done again (its transaction had to be repeated)
        goes on where it was.

        Returns the certificate and the receipt, which is kept nowhere.

        Raises:
            NotFound: the subject has no key. InvalidInput: the reason names the subject.
        """
        _without_name(reason, subject)
        key, done, counts = self._begun.get(call.id) or self._destroyed(call.id, subject)
        looked = []
        for copies in self._copies():
            n_removed = copies.forget(key)
            n_rows = counts.get(copies.name, 0)
            looked.append(LookedThrough(store=copies.name, n_rows=n_rows, n_removed=n_removed))
        receipt = secrets.token_urlsafe(24)
        certificate = self._kept(
            call.connection,
            done,
            by=call.caller.principal.id,
            reason=reason,
            subject_hash=hashed(subject, receipt),
            looked=looked,
        )
        return certificate, receipt

    def certificates(self, connection: Connection, *, limit: int = 100) -> list[Certificate]:
        """The newest first, each with its signature checked."""
        newest = (certificate_rows.c.erased_at.desc(), certificate_rows.c.sequence.desc())
        query = select(certificate_rows).order_by(*newest).limit(limit)
        return [self._read(row._mapping) for row in connection.execute(query)]

    def uncertified(self, connection: Connection) -> list[Destroyed]:
        """Destructions that no certificate tells of: their record was lost, or a backup from
        before them was restored.
        """
        known = set(connection.execute(select(certificate_rows.c.pseudonym)).scalars())
        return [one for one in self._keys.destroyed() if f"{one.pseudonym:016x}" not in known]

    def all_certificates(self, connection: Connection, *, limit: int = 100) -> list[Certificate]:
        """Certificates and, before them, what is uncertified (with an empty ``id``)."""
        bare = [
            Certificate(
                id="",
                sequence=one.sequence,
                pseudonym=f"{one.pseudonym:016x}",
                erased_at=one.destroyed_at,
                erased_by=UNKNOWN,
                reason=UNKNOWN,
                subject_hash="",
                looked_through=(),
            )
            for one in reversed(self.uncertified(connection))
        ]
        return [*bare, *self.certificates(connection, limit=limit)][:limit]

    def certificate(self, connection: Connection, name: str) -> Certificate:
        """One certificate; raises NotFound."""
        query = select(certificate_rows).where(certificate_rows.c.id == name)
        row = connection.execute(query).first()
        if row is None:
            raise NotFound(
                f"There is no certificate {name!r}.", hint="`falaj privacy certificates` shows all."
            )
        return self._read(row._mapping)

    def _destroyed(
        self, call: str, subject: Subject
    ) -> tuple[SubjectKey, Destroyed, dict[str, int]]:
        (key,) = self._keys.of([subject], make=False)
        if key is None:
            raise _nobody()
        counts = {copies.name: sum(copies.count(key).values()) for copies in self._copies()}
        done = self._keys.destroy(subject)
        if done is None:  # somebody else was faster
            raise _nobody()
        if len(self._begun) >= _MOST_BEGUN:
            self._begun.clear()
        self._begun[call] = replace(key, secret=b""), done, counts
        return self._begun[call]

    def _kept(
        self,
        connection: Connection,
        done: Destroyed,
        *,
        by: str,
        reason: str,
        subject_hash: str,
        looked: Sequence[LookedThrough],
    ) -> Certificate:
        made = Certificate(
            id=new_id("erasure"),
            sequence=done.sequence,
            pseudonym=f"{done.pseudonym:016x}",
            erased_at=done.destroyed_at,
            erased_by=by,
            reason=reason,
            subject_hash=subject_hash,
            looked_through=tuple(looked),
        )
        signature = self._signer.sign(SIGNED_FOR, made.statement())
        row = made.model_dump(mode="python", exclude={"key_id", "signed"})
        row["looked_through"] = [one.model_dump(mode="json") for one in made.looked_through]
        connection.execute(
            insert(certificate_rows).values(
                **row,
                key_id=signature.key_id,
                algorithm=signature.algorithm,
                signature=signature.value,
            )
        )
        return made.model_copy(update={"key_id": signature.key_id, "signed": True})

    def _read(self, row: Mapping[Any, Any]) -> Certificate:
        facts = dict(row)
        value, algorithm = facts.pop("signature"), facts.pop("algorithm")
        found = Certificate.model_validate(facts)
        signature = Signature(found.key_id, algorithm, bytes(value))
        return found.model_copy(update={"signed": self._is_signed(found, signature)})

    def _is_signed(self, found: Certificate, signature: Signature) -> bool:
        try:
            self._signer.verify(SIGNED_FOR, found.statement(), signature)
        except Corrupt:
            return False
        return True


def hashed(subject: Subject, receipt: str) -> str:
    """What a certificate says of a subject's name, to whoever has the receipt."""
    said = f"{subject.kind}\0{subject.name}".encode()
    return hmac.digest(receipt.encode(), said, "sha256").hex()


def _without_name(reason: str, subject: Subject) -> None:
    if not reason.strip():
        raise InvalidInput("An erasure needs a reason.", hint="Say which request it answers.")
    if len(subject.name) >= _SHORTEST_NAME and subject.name.lower() in reason.lower():
        raise InvalidInput(
            "The reason names the subject, and would tell who it was for ever.",
            hint="Name the request by its number instead.",
        )


def _nobody() -> NotFound:
    return NotFound(
        "There is no key of that subject, so nothing that is sealed under it.",
        hint="Check the kind and the name as the tables have it; it may have been erased before.",
    )


__all__ = ["Certificate", "Erasures", "Holding", "LakeCopies", "LookedThrough", "hashed"]

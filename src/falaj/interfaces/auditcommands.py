"""``falaj audit export`` and ``falaj audit check-proof``: the audit log for others' eyes."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from falaj.kernel.errors import Corrupt, InvalidInput

if TYPE_CHECKING:
    from falaj.interfaces.session import Session
    from falaj.trust.audit_model import RecordProof

_PAGE = 1_000
_LONGEST_PROOF = 4 * 2**20


def add_audit_commands(group: typer.Typer) -> None:
    """Give the commands of the audit log two more."""

    @group.command("export")
    def export(
        context: typer.Context,
        to: Annotated[
            Path | None, typer.Option(help="A file to add the lines to; else they are printed.")
        ] = None,
        form: Annotated[str, typer.Option("--format", help="json, cef or ocsf.")] = "json",
        after: Annotated[int, typer.Option(help="Begin behind this record.", min=0)] = 0,
        since: Annotated[
            datetime | None, typer.Option(help="Only records from then on (UTC).")
        ] = None,
        until: Annotated[
            datetime | None, typer.Option(help="Only records before then (UTC).")
        ] = None,
    ) -> None:
        """Write records as JSON lines, CEF or OCSF, oldest first, one line for each."""
        exported(context.obj, to=to, form=form, after=after, since=since, until=until)

    @group.command("check-proof")
    def check_proof(
        file: Annotated[Path, typer.Argument(help="What `falaj --json audit proof` printed.")],
        key: Annotated[
            str | None,
            typer.Option(help="The log's public key in hex, had from elsewhere than the proof."),
        ] = None,
    ) -> None:
        """Check the proof of a record without a platform: offline, with the log's public key."""
        print(checked(file, key))  # noqa: T201 - what the command has to say

    @group.command("prove-archived")
    def prove_archived(
        context: typer.Context,
        file: Annotated[Path, typer.Argument(help="An archive of audit records.")],
        seq: Annotated[int, typer.Argument(help="The number of the record.", min=1)],
        key: Annotated[
            str | None, typer.Option(help="The log's public key in hex, had from elsewhere.")
        ] = None,
    ) -> None:
        """Prove a record out of an archive, which is checked first: offline."""
        context.obj.show(proven(file, seq, key))


def exported(
    session: Session,
    *,
    to: Path | None,
    form: str,
    after: int,
    since: datetime | None,
    until: datetime | None,
) -> None:
    """Write every record behind ``after``; says how to go on where it ended.

    Raises:
        InvalidInput: the format is not one of those known.
    """
    from falaj.trust.audit_formats import AuditFormat

    try:
        chosen = AuditFormat(form)
    except ValueError:
        raise InvalidInput(
            f"The format {form!r} is not known.", hint="Use json, cef or ocsf."
        ) from None
    look = session.platform.audit.lines
    n = 0
    # Only what stands now: each page that is read leaves a record of its own.
    last = session.platform.audit.search(limit=1).records[0].seq
    opened = to.open("a", encoding="utf-8", newline="\n") if to else nullcontext(sys.stdout)
    with opened as file:
        while after < last:
            page = look(
                format=chosen, after=after, upto=last, since=since, until=until, limit=_PAGE
            )
            file.writelines(f"{line}\n" for line in page.lines)
            n += len(page.lines)
            after = page.next
            if not page.lines and after >= last:
                break
    print(f"{n} records; go on with --after {last}", file=sys.stderr)  # noqa: T201


def checked(file: Path, key: str | None) -> str:
    """What a proof proves, in a few lines.

    Raises:
        InvalidInput: the file or the key cannot be read.
        Corrupt: the proof proves nothing.
    """
    from pydantic import ValidationError

    from falaj.trust.audit_model import RecordProof
    from falaj.trust.audit_proofs import verify_record_proof

    try:
        if file.stat().st_size > _LONGEST_PROOF:
            raise ValueError("it is too long")
        proof = RecordProof.model_validate_json(file.read_bytes())
        public_key = bytes.fromhex(key) if key is not None else None
    except OSError as error:
        raise InvalidInput(
            f"The file {file} cannot be read: {error.strerror}.",
            hint="Name the file that `falaj --json audit proof SEQ` was written to.",
        ) from None
    except (ValidationError, ValueError):
        raise InvalidInput(
            f"{file} and the given key are no proof of a record and no key in hex.",
            hint="Make one with `falaj --json audit proof SEQ`.",
        ) from None
    verify_record_proof(proof, public_key=public_key)
    if public_key is not None and public_key.hex() != proof.public_key:
        raise Corrupt("The proof names another key than the given one.")
    checkpoint = proof.checkpoint
    believed = (
        "with the key that you gave"
        if key
        else f"with the key that the proof itself names, {proof.public_key}: compare it with one "
        "that you had from elsewhere (--key)"
    )
    return (
        f"The record stands in the log: {_tame(proof.record)}\n"
        f"It is one of the {checkpoint.size} under the checkpoint of {checkpoint.at.isoformat()}, "
        f"{believed}."
    )


def proven(file: Path, seq: int, key: str | None) -> RecordProof:
    """The proof of a record of an archive.

    Raises:
        InvalidInput: the key is not hex.
        NotFound: there is no such file, or it does not hold the record.
        Corrupt: the archive is not what was signed.
    """
    from falaj.trust.audit_archive import read_archive

    try:
        public_key = bytes.fromhex(key) if key is not None else None
    except ValueError:
        raise InvalidInput("The given key is not hex.") from None
    return read_archive(file, public_key=public_key).proof(seq)


def _tame(text: str) -> str:
    from falaj.interfaces.printing import tame

    return tame(text)

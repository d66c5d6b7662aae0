"""``falaj models export NAME VERSION FOLDER``: a bundle as files that others can verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel

if TYPE_CHECKING:
    from falaj.interfaces.session import Session


class Exported(BaseModel):
    """What was written."""

    folder: str
    files: list[str]


def add_export(group: typer.Typer) -> None:
    """Let the command that exports a version write its files into a folder."""
    group.registered_commands = [one for one in group.registered_commands if one.name != "export"]

    @group.command("export")
    def export(
        context: typer.Context,
        name: Annotated[str, typer.Argument(metavar="NAME")],
        version: Annotated[int, typer.Argument(metavar="VERSION")],
        folder: Annotated[
            Path | None, typer.Argument(help="A new folder; left out: print the archive.")
        ] = None,
    ) -> None:
        """Write a version's files and `model.sig` into a folder, for `model_signing verify key`.

        Verify it with the public key that `falaj models signers` tells.
        """
        from falaj.models.exporting import unpack
        from falaj.wiring.services import service_classes

        session: Session = context.obj
        actions = {one.verb: one for one in service_classes()["models"].actions()}
        data = session.call(actions["export"], {"name": name, "version": version})
        if folder is None:
            session.show(data)
            return
        session.show(Exported(folder=str(folder), files=unpack(data, folder)))

"""``falaj models card NAME VERSION``: a card on the screen, or in a file to send."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from falaj.interfaces.session import Session


def add_card(group: typer.Typer) -> None:
    """Let the command that shows a version's card write it into a file as well."""
    group.registered_commands = [one for one in group.registered_commands if one.name != "card"]

    @group.command("card")
    def card(
        context: typer.Context,
        name: Annotated[str, typer.Argument(metavar="NAME")],
        version: Annotated[int, typer.Argument(metavar="VERSION")],
        form: Annotated[str, typer.Option(help="markdown or html.")] = "markdown",
        to: Annotated[
            Path | None, typer.Option(help="Write it to this file, instead of showing it.")
        ] = None,
    ) -> None:
        """The card of a version, made from today's evidence: Markdown, or a page of HTML.

        The page is whole in itself: it has no script and loads nothing.
        """
        from falaj.kernel.errors import InvalidInput
        from falaj.wiring.services import service_classes

        session: Session = context.obj
        actions = {one.verb: one for one in service_classes()["models"].actions()}
        text = session.call(actions["card"], {"name": name, "version": version, "form": form})
        if to is None:
            session.show(text)
            return
        try:
            to.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InvalidInput(
                f"The file {to} cannot be written: {error.strerror}.", hint="Name another file."
            ) from None
        session.show(None)

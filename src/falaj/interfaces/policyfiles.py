"""``falaj policy test``: cases as files, judged without a platform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

if TYPE_CHECKING:
    from falaj.interfaces.session import Session


def add_policy_commands(group: typer.Typer) -> None:
    """Give the commands of policies one more."""

    @group.command("test")
    def test(
        context: typer.Context,
        files: Annotated[list[Path], typer.Argument(help="Files of cases (TOML).")],
        definitions: Annotated[
            Path | None,
            typer.Option(help="Where policies are declared; default: the folder `definitions`."),
        ] = None,
    ) -> None:
        """Judge cases by the built-in policies and those that are declared here."""
        if tested(context.obj, files, definitions):
            raise typer.Exit(1)

    @group.command("whatif")
    def whatif(
        context: typer.Context,
        path: Annotated[
            Path | None, typer.Argument(help="A folder or file of definitions.")
        ] = None,
        days: Annotated[int, typer.Option(help="Of so many days.", min=1, max=30)] = 30,
    ) -> None:
        """Show what the declared policies would change of all that was asked lately."""
        session: Session = context.obj
        session.show(session.platform.policy.compare(_documents(session, path), days=days))


def tested(session: Session, files: list[Path], definitions: Path | None) -> int:
    """Print what became of each case; returns how many have failed.

    Raises:
        InvalidInput: a file of cases or a policy is malformed.
    """
    from falaj.interfaces.printing import tame
    from falaj.trust.policy_cases import Cases, read_cases
    from falaj.wiring.services import service_classes

    actions = [one for service in service_classes().values() for one in service.actions()]
    cases = Cases(actions, _declared_policies(session, definitions))
    judged = [one for file in files for one in cases.judged(str(file), read_cases(file))]
    failed = [one for one in judged if not one.passed]
    if session.as_json or session.only is not None:
        session.show(judged)
        return len(failed)
    for one in failed:
        reasons = ", ".join(one.reasons)
        session.console.print(
            escape(tame(f"{one.file}, case {one.number} ({one.title}): {one.answer}, {reasons}")),
            soft_wrap=True,
        )
    session.console.print(f"{len(judged) - len(failed)} of {len(judged)} cases hold.")
    return len(failed)


def _documents(session: Session, path: Path | None) -> list[dict[str, Any]]:
    from falaj.catalog.policies import Policy
    from falaj.interfaces.declarations import DEFAULT_FOLDER, declared
    from falaj.kernel.errors import NotFound

    found = declared(path if path is not None else session.folder / DEFAULT_FOLDER)
    documents = [one.document() for one in found if isinstance(one, Policy)]
    if not documents:
        raise NotFound("No policy is declared there.", hint="See docs/guide/policies.md.")
    return documents


def _declared_policies(session: Session, path: Path | None) -> dict[str, str]:
    from falaj.catalog.policies import Policy
    from falaj.interfaces.declarations import DEFAULT_FOLDER, declared
    from falaj.kernel.errors import NotFound

    try:
        found = declared(path if path is not None else session.folder / DEFAULT_FOLDER)
    except NotFound:
        if path is not None:
            raise
        return {}  # the built-in policies can be tested alone
    return {one.name: one.text for one in found if isinstance(one, Policy) and one.enabled}

"""``falaj ci``: makes workflows, and gives their jobs the few commands that no action is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from falaj.interfaces.session import Session

Definitions = Annotated[Path | None, typer.Argument(help="A folder or file of definitions.")]


def add_ci_commands(group: typer.Typer) -> None:
    """Give the actions of CI the commands that work without the platform or around it."""
    _add_init(group)
    _add_checks(group)


def _add_init(group: typer.Typer) -> None:
    @group.command("init")
    def init(
        context: typer.Context,
        system: Annotated[str, typer.Argument(help="github, gitlab or jenkins.")],
        address: Annotated[str, typer.Option(help="Of the platform: https://…")],
        model: Annotated[str, typer.Option(help="Whose gates are run and which is proposed.")],
        endpoint: Annotated[str, typer.Option(help="Which is deployed.")],
        account: Annotated[str, typer.Option(help="The service account of the jobs.")] = "ci",
        definitions: Annotated[
            str, typer.Option(help="The folder of definitions.")
        ] = "definitions",
        out: Annotated[
            Path | None, typer.Option(help="The file; default: where the system looks for it.")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace a file.")] = False,
    ) -> None:
        """Write a workflow: lint, plan as a comment, gates, proposal, deployment on approval."""
        from falaj.interfaces.ci.templates import WORKFLOWS, Places
        from falaj.kernel.errors import Conflict, InvalidInput

        session: Session = context.obj
        workflow = WORKFLOWS.get(system)
        if workflow is None:
            raise InvalidInput(
                f"There is no workflow for {system!r}.", hint=f"Choose {', '.join(WORKFLOWS)}."
            )
        if not address.startswith("https://"):
            raise InvalidInput("The address does not begin with https://.")
        text = workflow.text(Places(address, model, endpoint, definitions, account))
        file = out or session.folder / workflow.path
        if file.exists() and not force:
            raise Conflict(f"There is a file {file} already.", hint="--force replaces it.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        session.console.print(f"Wrote {file}.", highlight=False, soft_wrap=True)
        session.console.print(
            f"Make its account: falaj ci deploy-key {account} --steps"
            ' \'["plan", "apply", "gate", "propose", "deploy"]\'',
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip


def _add_checks(group: typer.Typer) -> None:
    @group.command("lint")
    def lint(context: typer.Context, path: Definitions = None) -> None:
        """Check definitions without a platform: they run, are well formed, hold no secret."""
        from falaj.interfaces.ci.lint import linted
        from falaj.interfaces.declarations import DEFAULT_FOLDER

        session: Session = context.obj
        found = linted(path if path is not None else session.folder / DEFAULT_FOLDER)
        session.console.print(f"{len(found)} definitions are well formed.", highlight=False)

    @group.command("plan")
    def plan(
        context: typer.Context,
        path: Definitions = None,
        out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    ) -> None:
        """Show what applying the definitions would change, as Markdown; changes nothing."""
        from falaj.interfaces.ci.plans import markdown
        from falaj.interfaces.workspace import planned_definitions

        session: Session = context.obj
        text = markdown(planned_definitions(session, path))
        if out is None:
            session.console.file.write(text)
        else:
            out.write_text(text, encoding="utf-8")
            session.console.print(f"Wrote {out}.", highlight=False, soft_wrap=True)

    @group.command("comment")
    def comment(
        context: typer.Context,
        file: Annotated[Path, typer.Argument(help="What to write: Markdown.")],
    ) -> None:
        """Write a file as a note on the merge request of this GitLab job."""
        import httpx

        from falaj.interfaces.ci.plans import comment_on_gitlab, surroundings

        session: Session = context.obj
        with httpx.Client(timeout=30, follow_redirects=False) as client:
            number = comment_on_gitlab(file.read_text(encoding="utf-8"), surroundings(), client)
        session.console.print(f"Wrote the note {number}.", highlight=False)

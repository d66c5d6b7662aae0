"""``falaj gate run`` and ``falaj gate report``: gates for CI, with exit codes and files.

Exit code 0: the version passed. 1: a gate failed. 2: it could not be judged (no such version, the
job failed, not permitted), or the command line is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from falaj.interfaces.session import Session
    from falaj.kernel.errors import FalajError
    from falaj.models.model import GateReport

PASSED, FAILED, NOT_JUDGED = 0, 1, 2

gate_app = typer.Typer(
    name="gate",
    help="The gates of a model version, for CI: exit codes 0, 1 and 2, JUnit XML and SARIF.",
    no_args_is_help=True,
)

Named = Annotated[str, typer.Argument(metavar="NAME", help="The model, or NAME/VERSION.")]
Numbered = Annotated[
    int | None, typer.Argument(metavar="VERSION", help="Its version; the latest if left out.")
]
Junit = Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")]
Sarif = Annotated[Path | None, typer.Option(help="Write SARIF 2.1.0 to this file.")]
Location = Annotated[
    str | None, typer.Option(help="The file that declares the policy, for results in SARIF.")
]
Strict = Annotated[bool, typer.Option("--strict", help="A skipped gate counts as failed.")]


@gate_app.command()
def run(
    context: typer.Context,
    name: Named,
    version: Numbered = None,
    junit: Junit = None,
    sarif: Sarif = None,
    location: Location = None,
    strict: Strict = False,
) -> None:
    """Run the gates of a version, wait for them, and say how they ended."""
    asked = _Asked(context.obj, name, version, junit, sarif, location, strict)
    raise typer.Exit(asked.told(run_first=True))


@gate_app.command()
def report(
    context: typer.Context,
    name: Named,
    version: Numbered = None,
    junit: Junit = None,
    sarif: Sarif = None,
    location: Location = None,
    strict: Strict = False,
) -> None:
    """Tell the latest report of a version's gates again, without running them."""
    asked = _Asked(context.obj, name, version, junit, sarif, location, strict)
    raise typer.Exit(asked.told(run_first=False))


class _Asked:
    """One call of the command line."""

    def __init__(
        self,
        session: Session,
        name: str,
        version: int | None,
        junit: Path | None,
        sarif: Path | None,
        location: str | None,
        strict: bool,
    ) -> None:
        self._session = session
        self._model, _, number = name.partition("/")
        if number and (version is not None or not number.isdecimal()):
            raise typer.BadParameter(f"{name!r}: give NAME VERSION, or NAME/VERSION")
        self._version = int(number) if number else version
        self._junit, self._sarif = junit, sarif
        self._location, self._strict = location, strict

    def told(self, *, run_first: bool) -> int:
        """Show and write what there is to tell; the exit code."""
        from falaj.interfaces.gateforms import fails
        from falaj.kernel.errors import FalajError

        try:
            found = self._found(run_first=run_first)
        except FalajError as error:
            self._not_judged(error)
            return NOT_JUDGED
        self._write(found)
        self._show(found)
        return FAILED if any(fails(one, strict=self._strict) for one in found.results) else PASSED

    def _found(self, *, run_first: bool) -> GateReport:
        models = self._session.platform.models
        if self._version is None:
            self._version = models.versions(self._model)[0].version
        if run_first:
            self._session.wait(models.gates(self._model, self._version))
        return models.gate_report(self._model, self._version)

    def _show(self, found: GateReport) -> None:
        if self._session.as_json or self._session.only is not None:
            self._session.show(found)
            return
        self._session.show([one.model_dump(include=_SHOWN) for one in found.results])
        verdict = "passed" if found.passed else "did not pass"
        told = f"{found.model} version {found.version} {verdict} its gates ({found.id})."
        self._session.console.print(told, markup=False, highlight=False, soft_wrap=True)

    def _write(self, found: GateReport) -> None:
        from falaj.interfaces.gateforms import junit, sarif

        if self._junit is not None:
            _written(self._junit, junit(found, strict=self._strict))
        if self._sarif is not None:
            _written(self._sarif, sarif(found, location=self._location, strict=self._strict))

    def _not_judged(self, error: FalajError) -> None:
        from rich.console import Console

        from falaj.interfaces.gateforms import junit_of_error, sarif_of_error
        from falaj.interfaces.printing import show_error

        show_error(Console(stderr=True), error)
        if self._junit is not None:
            _written(self._junit, junit_of_error(self._model, self._version, error))
        if self._sarif is not None:
            _written(self._sarif, sarif_of_error(error))


_SHOWN = {"gate", "outcome", "message"}


def _written(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        _refused(f"{file} cannot be written: {error.strerror}")


def _refused(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(NOT_JUDGED)

"""Commands made from actions: ``falaj models promote flight-delay 3 --to production``.

The arguments of an action's path are positional; the others are options, and a required
option says so. A value that is not text is written as JSON; ``@file`` reads it from a file.
A command that begins a job takes ``--wait``: it follows the job and shows its result.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from falaj.interfaces.texts import from_text
from falaj.kernel.actions import Action, Service
from falaj.kernel.errors import InvalidInput
from falaj.kernel.jobs import Job

Invoke = Callable[[typer.Context, Action, dict[str, Any], bool], None]
"""Calls an action and shows its answer; given True, that of the job that it began."""
_WAIT = "wait"


def service_commands(service: type[Service], invoke: Invoke) -> typer.Typer:
    """A command group with one command for each action of a service."""
    summary = (inspect.getdoc(service) or "").split("\n\n")[0]
    group = typer.Typer(name=service.name, help=summary, no_args_is_help=True)
    for action in service.actions():
        group.command(action.command, help=inspect.getdoc(action.function))(
            _command(action, invoke)
        )
    return group


def _command(action: Action, invoke: Invoke) -> Callable[..., None]:
    def command(**given: Any) -> None:
        context: typer.Context = given.pop("context")
        wait = bool(given.pop(_WAIT, False))
        arguments = {
            name: _value(action, name, text) for name, text in given.items() if text is not None
        }
        invoke(context, action, arguments, wait)

    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    ]
    annotations: dict[str, Any] = {"context": typer.Context}
    for name, parameter in action.signature.parameters.items():
        required = parameter.default is inspect.Parameter.empty
        annotation = _annotation(action, name, required)
        annotations[name] = annotation
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default(parameter, annotation),
                annotation=annotation,
            )
        )
    if _is_followed(action.signature.return_annotation):
        annotations[_WAIT] = Annotated[
            bool, typer.Option("--wait", help="Follow the job and show its result.")
        ]
        parameters.append(
            inspect.Parameter(
                _WAIT,
                inspect.Parameter.KEYWORD_ONLY,
                default=False,
                annotation=annotations[_WAIT],
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = annotations
    command.__name__ = action.verb
    return command


def _is_followed(answer: Any) -> bool:
    """True for a job, and for what is executed by one and names it (``followed_job``)."""
    return answer is Job or hasattr(answer, "followed_job")


def _annotation(action: Action, name: str, required: bool) -> Any:
    kind = _kind(action.signature.parameters[name].annotation)
    if name in action.path_arguments:
        return Annotated[str, typer.Argument(metavar=name.upper())]
    if action.signature.parameters[name].annotation is bool and not required:
        flag = name.replace("_", "-")
        return Annotated[bool, typer.Option(f"--{flag}/--no-{flag}")]
    option = typer.Option("--" + name.replace("_", "-"), metavar=kind)
    return Annotated[str, option] if required else Annotated[str | None, option]


def _default(parameter: inspect.Parameter, annotation: Any) -> Any:
    """What the command line is told: flags say theirs, other options are left out if absent."""
    if parameter.default is inspect.Parameter.empty or get_args(annotation)[0] is bool:
        return parameter.default
    return None


def _kind(annotation: Any) -> str:
    text = getattr(annotation, "__name__", None) or str(annotation)
    return text.replace("typing.", "").replace("falaj.", "").upper()[:40]


def _value(action: Action, name: str, text: str | bool) -> Any:
    if isinstance(text, bool):
        return text
    if text.startswith("@"):
        file = Path(text[1:])
        try:
            if name == action.binary_argument:
                return file.read_bytes()
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidInput(
                f"The file {file} for --{name.replace('_', '-')} cannot be read: {error.strerror}.",
                hint="Check the path after the @.",
            ) from None
    return from_text(action, name, text)

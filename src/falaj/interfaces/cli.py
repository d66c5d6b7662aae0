"""The command line. Each action is a command; a few more set up, run and explain things.

Services are imported only when one of their commands is asked for, so that
``falaj --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from falaj.interfaces.gatecommands import gate_app
from falaj.interfaces.session import Session

if TYPE_CHECKING:
    from falaj.kernel.actions import Action

SERVICES: dict[str, str] = {
    "sources": "Sources of data: loading them, checking their contracts.",
    "contracts": "Contracts: what must be true of a table's rows, and whether it was, over time.",
    "tables": "Tables of the lake: their columns, snapshots and rows.",
    "definitions": "Definitions: what is declared in a repository, planned and applied as one.",
    "features": "Features: computed once from a definition, read for training and for serving.",
    "training": "Training: pinned training sets, and jobs that train models on them.",
    "runs": "Runs: what was tried, with what, and what came of it.",
    "loggedmodels": "Logged models: models as runs wrote them down, before one is registered.",
    "experiments": "Experiments: names under which runs are gathered, in workspaces.",
    "studies": "Studies: what was tried to make a model better, and which trial was best.",
    "costs": "Costs: what runs used and what that cost, by run, model, team and month.",
    "pipelines": "Pipelines: functions that run durably as one graph, asked for or by themselves.",
    "models": "Registered models: what may be served, and why.",
    "endpoints": "Endpoints and their releases: what serves, and since when.",
    "monitors": "Drift, performance, calibration and fairness, from the prediction log.",
    "planning": "How many units a rollout needs, and for how long it runs.",
    "retraining": "Retraining: what has a model trained again, and what came of each time.",
    "rollouts": "Rollouts: challengers that are tried on live traffic, and what became of them.",
    "changes": "Changes: what waits for an approval, who decided what, and on which evidence.",
    "alerts": "Alerts: what is not as it should be, and who looks after it.",
    "incidents": "Incidents: disturbances, their priority, and what was done about them.",
    "service_levels": "Service levels: what endpoints promise, and what of it is left.",
    "problems": "Problems: the causes of incidents, until a change has taken them away.",
    "silences": "Silences: alerts that nobody is told of for a time.",
    "receivers": "Receivers of alerts: whether they can be reached, what is on its way to them.",
    "webhooks": "Webhooks: other programs that are told of events, by signed requests.",
    "assets": "Assets and their lineage: what there is, whose it is, and what flows into what.",
    "privacy": "Personal data: where a person's rows stand, and their erasure.",
    "accounts": "People and programs that may act on this platform, their roles and sessions.",
    "certificates": "Certificates with which programs prove who they are.",
    "provisioning": "Accounts and groups that identity providers keep, by SCIM.",
    "policy": "Policies: the operator's own, and which policy decides what.",
    "ci": "CI: keys with the least rights, and what a job may ask for.",
    "keys": "The keys that seal and sign: which there are, and their rotation.",
    "audit": "What was done by whom, and proof that the record of it is whole.",
    "jobs": "Long work: what waits, what runs, what has ended and how.",
}
"""The services that have commands; a test holds these lines against the services."""


class ServiceGroup(TyperGroup):
    """The commands of one service, imported when they are needed."""

    def __init__(self, name: str, summary: str) -> None:
        super().__init__(name=name, help=summary, no_args_is_help=True)

    def _loaded(self) -> TyperGroup:
        if not self.commands:
            from typer.main import get_group

            from falaj.interfaces.commands import service_commands
            from falaj.wiring.services import service_classes

            made = service_commands(service_classes()[self.name or ""], _invoke)
            if self.name == "endpoints":
                from falaj.interfaces.top import add_top

                add_top(made)
            if self.name == "models":
                from falaj.interfaces.cardcommand import add_card
                from falaj.interfaces.exporting import add_export

                add_export(made)
                add_card(made)
            if self.name == "ci":
                from falaj.interfaces.cicommands import add_ci_commands

                add_ci_commands(made)
            if self.name == "policy":
                from falaj.interfaces.policyfiles import add_policy_commands

                add_policy_commands(made)
            if self.name == "audit":
                from falaj.interfaces.auditcommands import add_audit_commands

                add_audit_commands(made)
            self.commands.update(get_group(made).commands)
        return self

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        return list(self._loaded().commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One command by name."""
        return self._loaded().commands.get(cmd_name)


@cache
def _service_group(name: str) -> ServiceGroup:
    """The same group each time: a process that runs many commands makes their parsers once."""
    return ServiceGroup(name, SERVICES[name])


class Root(TyperGroup):
    """The top-level commands, then one group for each service."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Own commands first, in the order of their declaration."""
        return [*self.commands, *SERVICES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """An own command, or the group of a service."""
        if cmd_name in SERVICES:
            return _service_group(cmd_name)
        return self.commands.get(cmd_name)


app = typer.Typer(
    cls=Root,
    name="falaj",
    help="One governed machine-learning platform: features, training, serving, monitoring.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.add_typer(gate_app)


@app.callback()
def _options(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Option(help="The project's folder.", envvar="FALAJ_FOLDER")
    ] = Path(),
    url: Annotated[
        str | None, typer.Option(help="A server to work on instead.", envvar="FALAJ_URL")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="The certificate authority to trust (PEM).", envvar="FALAJ_CA"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    only: Annotated[
        str | None, typer.Option(help="Print one field of the answer and nothing else.")
    ] = None,
    code: Annotated[
        str | None, typer.Option(help="A one-time code, for actions that need a second factor.")
    ] = None,
    purpose: Annotated[
        str | None, typer.Option(help="Why data is asked for, where that matters.")
    ] = None,
) -> None:
    from falaj.kernel.telemetry import configure_logging

    session = Session(
        folder=folder, url=url, ca=ca, as_json=as_json, code=code, purpose=purpose, only=only
    )
    context.obj = session
    context.call_on_close(session.close)
    # What a command has to say stands in its answer; `up` asks for more.
    configure_logging(level="error", as_json=False)


def _invoke(context: typer.Context, action: Action, arguments: dict[str, Any], wait: bool) -> None:
    session: Session = context.obj
    answer = session.call(action, arguments)
    followed = getattr(answer, "followed_job", answer)
    session.show(session.wait(followed).result if wait else answer)
    if getattr(answer, "sound", True) is False:
        raise typer.Exit(1)  # so that a CI job notices an audit log that is not whole


@app.command()
def init(
    context: typer.Context,
    owner: Annotated[
        str | None, typer.Option(help="The owner's account name; default: your login name.")
    ] = None,
) -> None:
    """Make a platform in this folder: database, keys, owner, example definitions."""
    from falaj.interfaces.workspace import initialise

    initialise(context.obj, owner)


@app.command()
def plan(
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="A folder or file of definitions.")] = None,
) -> None:
    """Show what applying the definitions would change; changes nothing."""
    from falaj.interfaces.workspace import plan_definitions

    plan_definitions(context.obj, path)


@app.command()
def apply(
    context: typer.Context,
    path: Annotated[Path | None, typer.Argument(help="A folder or file of definitions.")] = None,
    secrets_allowed: Annotated[
        str | None, typer.Option(help="Why what looks like a secret in them is none.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why policies change, for whoever approves them.")
    ] = None,
) -> None:
    """Make the platform as the definitions say."""
    from falaj.interfaces.workspace import apply_definitions

    apply_definitions(context.obj, path, reason, secrets_allowed)


@app.command()
def up(
    context: typer.Context,
    role: Annotated[
        str | None,
        typer.Argument(help="control, inference or worker; default: all, supervised."),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Inference workers: a number, or least:most; default: the setting."),
    ] = None,
) -> None:
    """Run the platform on this machine until it is stopped (Ctrl-C)."""
    from falaj.interfaces.workspace import run_up

    run_up(context.obj, role, workers)


@app.command()
def restart(
    context: typer.Context,
    role: Annotated[str, typer.Argument(help="inference: its workers, one by one.")] = "inference",
    wait_seconds: Annotated[
        float, typer.Option(help="So long to wait until all are replaced.")
    ] = 600.0,
) -> None:
    """Replace the inference workers of a running `falaj up`; no connection is dropped."""
    from falaj.interfaces.workspace import run_restart

    run_restart(context.obj, role, wait_seconds)


@app.command()
def drain(
    context: typer.Context,
    wait_seconds: Annotated[
        float, typer.Option(help="So long to wait until all have ended.")
    ] = 600.0,
) -> None:
    """Let the inference workers of a running `falaj up` answer what they are asked, and end."""
    from falaj.interfaces.workspace import run_drain

    run_drain(context.obj, wait_seconds)


@app.command()
def render(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="kubernetes")],
    image: Annotated[str, typer.Option(help="The image that the pods run.")],
    name: Annotated[str, typer.Option(help="Of the deployment.")] = "falaj-inference",
    namespace: Annotated[str, typer.Option(help="Where it is put.")] = "falaj",
    scaler: Annotated[str, typer.Option(help="hpa or keda.")] = "hpa",
    prometheus: Annotated[
        str, typer.Option(help="The Prometheus that KEDA asks.")
    ] = "http://prometheus.monitoring:9090",
    cpus: Annotated[float, typer.Option(help="Cores that a pod asks for.")] = 1.0,
    memory: Annotated[str, typer.Option(help="Memory that a pod may use.")] = "1Gi",
    gpus: Annotated[int, typer.Option(help="GPUs of a pod.")] = 0,
) -> None:
    """Print what runs the inference workers elsewhere, from this platform's settings."""
    from falaj.interfaces.kubernetes import Pods
    from falaj.interfaces.workspace import run_render

    pods = Pods(
        image=image, name=name, namespace=namespace, scaler=scaler, prometheus=prometheus,
        cpus=cpus, memory=memory, gpus=gpus,
    )  # fmt: skip
    run_render(context.obj, what, pods)


@app.command()
def backup(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="create, verify or restore.")],
    file: Annotated[Path, typer.Argument(help="The file of the backup.")],
    secret: Annotated[
        Path | None,
        typer.Option(help="The machine's secret that sealed the keyring, for verify and restore."),
    ] = None,
) -> None:
    """Make a sealed backup of this platform, prove one whole, or make a platform of one."""
    from falaj.interfaces.backups import run_backup

    run_backup(context.obj, what, file, secret)


@app.command()
def doctor(context: typer.Context) -> None:
    """Check every component that the settings name; say what is wrong and how to mend it."""
    from falaj.interfaces.doctor import examine

    raise typer.Exit(examine(context.obj))


@app.command()
def enrol(
    context: typer.Context,
    name: Annotated[str, typer.Option(prompt=True, help="Your account's name.")],
    secret: Annotated[
        str | None, typer.Option(help="The secret of your invitation; asked for if left out.")
    ] = None,
) -> None:
    """Take up an invitation to a server (--url): choose a password, add a second factor."""
    context.obj.enrol(name, secret)


@app.command()
def login(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Option(help="Your account's name; asked for if left out.")
    ] = None,
    device: Annotated[
        bool, typer.Option("--device", help="Be let in by a browser; passkeys work there.")
    ] = False,
    bind: Annotated[
        bool,
        typer.Option("--bind", help="Sign each request by a key that is kept here (DPoP)."),
    ] = False,
    provider: Annotated[
        str | None, typer.Option(help="Be let in by a browser, through this identity provider.")
    ] = None,
    ci: Annotated[
        bool, typer.Option("--ci", help="Be let in by this CI job's token, for one COMMAND.")
    ] = False,
    command: Annotated[
        list[str] | None, typer.Argument(help="With --ci, behind `--`: what to run.")
    ] = None,
) -> None:
    """Log in to a server (--url): with password and code, through a browser, or as a CI job."""
    if ci:
        raise typer.Exit(context.obj.login_by_job(name, command or []))
    if command:
        raise typer.BadParameter("a command is run with --ci only")
    if device or provider:
        context.obj.login_by_device(provider or "", bind=bind)
    else:
        context.obj.login(name or typer.prompt("Name"), bind=bind)


@app.command()
def logout(context: typer.Context) -> None:
    """Forget the credentials of a server (--url)."""
    context.obj.logout()


@app.command()
def certify(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="The service account.")],
    into: Annotated[Path, typer.Argument(help="The folder that keeps its certificate.")],
    secret: Annotated[
        str | None,
        typer.Option(
            help="The account's secret, if the folder has no good certificate yet.",
            envvar="FALAJ_SERVICE_SECRET",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Stay, and renew it until this is stopped.")
    ] = False,
) -> None:
    """Get a program's certificate from a server (--url) into a folder, or renew it there."""
    from falaj.interfaces.certifying import certify_program

    certify_program(context.obj, service, into, secret=secret, keep=keep)


@app.command()
def whoami(context: typer.Context) -> None:
    """Show who you are for the platform, and your roles."""
    session: Session = context.obj
    session.show(session.platform.accounts.me())


@app.command()
def wait(context: typer.Context, job: Annotated[str, typer.Argument(help="A job's id.")]) -> None:
    """Follow a job until it ends; runs it here if no worker does."""
    session: Session = context.obj
    session.show(session.wait(job))


@app.command()
def score(
    context: typer.Context,
    endpoint: Annotated[str, typer.Argument(help="The endpoint whose release scores.")],
    to: Annotated[str, typer.Option(help="The lake table for the output.")],
    table: Annotated[str | None, typer.Option(help="The input table.")] = None,
    files: Annotated[
        list[str] | None,
        typer.Option(help="Or files (Parquet, CSV, Arrow); wildcards allowed; repeatable."),
    ] = None,
    snapshot: Annotated[int | None, typer.Option(help="Of the input table.")] = None,
    at: Annotated[
        str | None, typer.Option(help="A column of instants, or one instant; default: now.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="A column to carry into the output; repeatable.")
    ] = None,
    on_error: Annotated[
        str, typer.Option(help="For rows that are refused: fail or null.")
    ] = "fail",
    classification: Annotated[
        str | None, typer.Option(help="Of the output at least; files are personal without it.")
    ] = None,
    parquet: Annotated[
        str | None, typer.Option(help="Write the output to this file as well (needs --code).")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job, show its result.")] = False,
) -> None:
    """Score a table or files into a lake table; the same as `falaj endpoints score`."""
    from falaj.wiring.services import service_classes

    given = {
        "name": endpoint, "to": to, "table": table, "files": files or None, "snapshot": snapshot,
        "at": at, "keys": key or None, "on_error": on_error, "classification": classification,
        "parquet": parquet,
    }  # fmt: skip
    actions = {action.verb: action for action in service_classes()["endpoints"].actions()}
    arguments = {name: value for name, value in given.items() if value is not None}
    _invoke(context, actions["score"], arguments, wait)


@app.command()
def cost(
    context: typer.Context,
    by: Annotated[str, typer.Option(help="run, model, team or month.")] = "model",
    since: Annotated[str | None, typer.Option(help="Only what began from this instant on.")] = None,
    until: Annotated[str | None, typer.Option(help="Only what began before this one.")] = None,
    model: Annotated[str | None, typer.Option(help="Only runs of this model.")] = None,
) -> None:
    """Show what runs used and cost; the same as `falaj costs report`."""
    from falaj.wiring.services import service_classes

    given = {"by": by, "since": since, "until": until, "model": model}
    actions = {action.verb: action for action in service_classes()["costs"].actions()}
    arguments = {name: value for name, value in given.items() if value is not None}
    _invoke(context, actions["report"], arguments, wait=False)


@app.command()
def lineage(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="prediction, or a kind of asset (table, model …).")],
    key: Annotated[str, typer.Argument(help="Its id or name.")],
) -> None:
    """Walk back from a prediction or an asset to where it came from."""
    from falaj.interfaces.workspace import show_lineage

    show_lineage(context.obj, kind, key)


@app.command()
def demo(
    context: typer.Context,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running.")] = False,
    where: Annotated[
        Path | None, typer.Option("--in", help="The folder to use; default: a new one.")
    ] = None,
) -> None:
    """The whole story on real flights, from files to a governed, monitored model."""
    from falaj.interfaces.workspace import run_demo

    run_demo(context.obj, keep=keep, where=where)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    typer.echo(version_of("falaj"))


def main() -> None:
    """The program ``falaj``: runs a command; errors of Falaj are told without a traceback."""
    from falaj.kernel.errors import FalajError

    try:
        app(prog_name="falaj")
    except FalajError as error:
        from rich.console import Console

        from falaj.interfaces.printing import show_error

        show_error(Console(stderr=True), error)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)

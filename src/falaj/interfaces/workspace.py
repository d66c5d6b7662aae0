"""The commands that set a platform up, apply definitions, run it and explain it."""

from __future__ import annotations

import getpass
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.tree import Tree

from falaj.interfaces.session import Session
from falaj.kernel.errors import InvalidInput

if TYPE_CHECKING:
    from falaj.catalog.planning import Plan
    from falaj.interfaces.kubernetes import Pods
    from falaj.interfaces.supervisor import Supervisor
    from falaj.kernel.actions import Action
    from falaj.kernel.settings import Settings

ROLES = ("control", "inference", "worker")
PROPOSED = ("policy", "read_rule", "change_template")
"""``wiring.kinds.proposed_kinds``, without what they import: the supervisor is to stay small."""

EXAMPLE = '''"""What this platform is to know: sources, features, models, endpoints.

`falaj plan` shows what would change; `falaj apply` changes it. Uncomment and adapt:
"""

# from falaj.declare import Contract, Entity, Feature, FeatureView, Source
#
# customers = Source(
#     name="customers",
#     path="customers.csv",
#     ...
# )
'''


def initialise(session: Session, owner: str | None) -> None:
    """``falaj init``: database, keys, certificates and the owner's account in this folder."""
    from falaj.kernel.settings import Settings
    from falaj.wiring.setup import initialise as made

    settings = Settings.read(session.folder)
    result = made(settings, owner=owner or _account_name(getpass.getuser()))
    definitions = session.folder / "definitions"
    if not definitions.exists():
        definitions.mkdir()
        (definitions / "platform.py").write_text(EXAMPLE, encoding="utf-8")
    console = session.console
    console.print(f"A platform in {settings.home}, owned by [bold]{escape(result.owner)}[/].")
    console.print("Your second factor: enter this in an authenticator (time-based codes).")
    console.print(f"  {result.totp_secret}", soft_wrap=True, highlight=False)
    console.print(f"  {escape(result.totp_uri)}", soft_wrap=True, highlight=False)
    console.print("Recovery codes, each good once; they are not shown again:")
    console.print("  " + "  ".join(result.recovery_codes), highlight=False)
    console.print(
        "Next: declare things in `definitions/`, then `falaj plan` and `falaj apply`; "
        "`falaj up` serves them."
    )


def _account_name(text: str) -> str:
    name = re.sub(r"[^a-z0-9._-]", "-", text.lower()).lstrip("0123456789._-")
    return name if len(name) > 1 else "owner"


def plan_definitions(session: Session, path: Path | None) -> None:
    """``falaj plan``."""
    _show_plan(session, _planned(session, _documents(session, path)))


def planned_definitions(session: Session, path: Path | None) -> Plan:
    """What applying the definitions of a folder would change."""
    return _planned(session, _documents(session, path))


def apply_definitions(
    session: Session,
    path: Path | None,
    reason: str | None = None,
    secrets_allowed: str | None = None,
) -> None:
    """``falaj apply``: policies and read rules that differ are proposed, the rest is applied."""
    documents = _documents(session, path)
    plan = _planned(session, documents)
    changed = {(item.kind, item.name) for item in plan.effective() if item.kind in PROPOSED}
    if not changed:
        if _only_policies(documents):
            _show_plan(session, plan, done=True)
            return
        applied = session.platform.definitions.apply(
            documents, planned=plan.digest, secrets_allowed=secrets_allowed
        )
        _show_plan(session, applied, done=True)
        return
    if reason is None:
        raise InvalidInput(
            f"These policies would change: {', '.join(sorted(name for _, name in changed))}.",
            hint="Say why with --reason: whoever approves them reads it.",
        )
    rest = [one for one in documents if one["kind"] not in PROPOSED]
    if rest:
        definitions = session.platform.definitions
        digest = definitions.plan(rest).digest
        done = definitions.apply(rest, planned=digest, secrets_allowed=secrets_allowed)
        _show_plan(session, done, done=True)
    proposed = [one for one in documents if (one["kind"], one["name"]) in changed]
    action = _named("policy", "propose")
    change = session.call(action, {"documents": proposed, "reason": reason})
    if session.as_json:
        session.show(change)
        return
    session.console.print(
        f"Proposed as {change.id}: in force once another person runs "
        f"`falaj changes approve {change.id} --reason …`.",
        soft_wrap=True,
    )


def _planned(session: Session, documents: list[dict[str, Any]]) -> Plan:
    """The plan; policies alone are planned as those who may propose them plan."""
    if _only_policies(documents):
        return session.platform.policy.plan(documents)
    return session.platform.definitions.plan(documents)


def _only_policies(documents: list[dict[str, Any]]) -> bool:
    return bool(documents) and all(one["kind"] in PROPOSED for one in documents)


def _named(service: str, verb: str) -> Action:
    from falaj.wiring.services import service_classes

    found = service_classes()[service].actions()
    return next(action for action in found if action.verb == verb)


def _documents(session: Session, path: Path | None) -> list[dict[str, Any]]:
    from falaj.interfaces.declarations import DEFAULT_FOLDER, declared

    found = declared(path if path is not None else session.folder / DEFAULT_FOLDER)
    return [definition.document() for definition in found]


def _show_plan(session: Session, plan: Plan, *, done: bool = False) -> None:
    if session.as_json:
        session.show(plan)
        return
    from falaj.interfaces.trees import plan_lines

    for line in plan_lines(plan):
        session.console.print(line, highlight=False, soft_wrap=True)
    effective = any(plan.effective())
    if not effective:
        session.console.print("Nothing to change.")
    else:
        session.console.print("Applied." if done else "Nothing was changed: `falaj apply` does it.")


def run_up(session: Session, role: str | None, workers: str | None = None) -> None:
    """``falaj up``: all processes, or one of them, until stopped."""
    from falaj.interfaces.supervisor import Supervisor
    from falaj.kernel.settings import Settings
    from falaj.kernel.telemetry import configure_logging

    if role is not None and role not in ROLES:
        raise InvalidInput(
            f"There is no process {role!r}.", hint=f"Choose one of {', '.join(ROLES)}, or none."
        )
    settings = Settings.read(session.folder)
    if workers is not None:
        settings = _with_workers(settings, workers)
    configure_logging(level=settings.log_level, as_json=settings.log_format == "json")
    links: list[str | None] = []

    def prepare() -> None:
        from falaj.wiring.setup import first_link  # while the children start

        links.append(first_link(settings))

    def ready(supervisor: Supervisor) -> None:
        _announce(session, supervisor, links[0])

    Supervisor(
        folder=session.folder.resolve(),
        settings=settings,
        roles=ROLES if role is None else (role,),
        on_ready=ready,
        prepare=prepare,
    ).run()
    session.console.print("Stopped.")


def _with_workers(settings: Settings, workers: str) -> Settings:
    from pydantic import ValidationError

    from falaj.kernel.settings import InferenceSettings

    values = {**settings.inference.model_dump(), "workers": workers}
    try:
        inference = InferenceSettings.model_validate(values)
    except ValidationError:
        raise InvalidInput(
            f"--workers {workers!r} is no number of workers.",
            hint="Give a number, or the least and the most: `--workers 1:4`.",
        ) from None
    return settings.model_copy(update={"inference": inference})


def run_restart(session: Session, role: str, wait_seconds: float) -> None:
    """``falaj restart``: the inference workers, one by one."""
    from falaj.interfaces.supervisor import restart_workers
    from falaj.kernel.settings import Settings

    if role != "inference":
        raise InvalidInput(
            f"{role!r} cannot be restarted one by one.",
            hint="Only `inference` can; stop `falaj up` and start it again for the others.",
        )
    restart_workers(Settings.read(session.folder), wait_seconds=wait_seconds)
    session.console.print("All inference workers were replaced.")


def run_drain(session: Session, wait_seconds: float) -> None:
    """``falaj drain``: the inference workers end, when they have answered."""
    from falaj.interfaces.supervisor import drain_workers
    from falaj.kernel.settings import Settings

    drain_workers(Settings.read(session.folder), wait_seconds=wait_seconds)
    session.console.print("All inference workers have ended.")


def run_render(session: Session, what: str, pods: Pods) -> None:
    """``falaj render``: manifests to standard output, and nothing else."""
    from falaj.interfaces.kubernetes import rendered
    from falaj.kernel.settings import Settings

    if what != "kubernetes":
        raise InvalidInput(f"Nothing renders {what!r}.", hint="Choose `kubernetes`.")
    text = rendered(pods, Settings.read(session.folder).inference)
    session.console.file.write(text)


def _announce(session: Session, supervisor: Supervisor, link: str | None) -> None:
    told = {}
    if supervisor.control_address:
        told["control plane"] = supervisor.control_address
    if supervisor.inference_address:
        told["inference"] = supervisor.inference_address
    told["certificate authority"] = str(supervisor.settings.home / "tls" / "ca.pem")
    if link is not None:
        told["enrol the administrator"] = f"{supervisor.control_address}/enrol?secret={link}"
    console = session.console
    console.print("[bold]Falaj is up[/]; stop it with Ctrl-C.")
    # Whole lines whatever the width: they are made to be copied.
    for name, value in told.items():
        console.print(f"  {name:24}{escape(value)}", soft_wrap=True, highlight=False)


def show_lineage(session: Session, kind: str, key: str) -> None:
    """``falaj lineage``: the walk back from a prediction or an asset."""
    from falaj.interfaces.trees import lineage_tree, trace_tree

    if kind == "prediction":
        trace = session.platform.endpoints.trace(key)
        if session.as_json:
            session.show(trace)
        else:
            session.console.print(trace_tree(trace))
        return
    found = session.platform.assets.lineage(kind, key)
    if session.as_json:
        session.show(found)
        return
    tree: Tree = lineage_tree(found)
    session.console.print(tree)


def run_demo(session: Session, *, keep: bool, where: Path | None) -> None:
    """``falaj demo``: found by its entry point, for it stands above the interfaces."""
    from importlib.metadata import entry_points

    (story,) = entry_points(group="falaj.stories", name="demo")
    story.load()(session.console, keep=keep, where=where)

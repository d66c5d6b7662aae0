"""Tables of the documentation that are made from the code: who may do what, all commands.

``FALAJ_WRITE_DOCS=1 pytest tests/docs/test_tables.py`` writes them anew.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
from pathlib import Path

import falaj
from falaj.interfaces.cli import SERVICES, app
from falaj.kernel.actions import PLATFORM, Action
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.errors import error_classes
from falaj.kernel.ports import Resource
from falaj.trust.model import Role
from falaj.trust.policy import CedarPolicy
from falaj.wiring.services import service_classes

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
SHOWN = {
    Role.VIEWER: "viewer",
    Role.DATA_SCIENTIST: "scientist",
    Role.ML_ENGINEER: "engineer",
    Role.APPROVER: "approver",
    Role.STEWARD: "steward",
    Role.OPERATOR: "operator",
    Role.AUDITOR: "auditor",
    Role.ADMINISTRATOR: "admin",
    Role.SERVICE: "service",
    Role.PROVISIONER: "provisioner",
}
PROGRAMS = {Role.SERVICE, Role.PROVISIONER}


def all_actions() -> list[Action]:
    return [action for service in service_classes().values() for action in service.actions()]


def permissions() -> list[str]:
    actions = all_actions()
    policy = CedarPolicy(actions)
    lines = [
        "| action | " + " | ".join(SHOWN.values()) + " | code |",
        "|---|" + ":-:|" * (len(SHOWN) + 1),
    ]
    for action in actions:
        kind = action.on if action.on != PLATFORM else "platform"
        resource = Resource(AssetRef(kind, "x"), {})
        marks = []
        for role in SHOWN:
            who = PrincipalKind.SERVICE if role in PROGRAMS else PrincipalKind.USER
            caller = Caller(Principal(f"{who.value}:somebody", who, (role.value,)), via="test")
            allowed = policy.decide(caller, action.name, resource, stepped_up=True).allowed
            marks.append("●" if allowed else "")
        code = "yes" if action.step_up else ""
        lines.append(f"| `{action.name}` | " + " | ".join(marks) + f" | {code} |")
    return lines


def commands() -> list[str]:
    lines = ["| command | what it does |", "|---|---|"]
    own = [("", app.registered_commands)]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        inner = group.typer_instance
        own.append((f"{inner.info.name} ", inner.registered_commands))
    for before, registered in own:
        for command in registered:
            function = command.callback
            assert function is not None
            name = f"{before}{command.name or function.__name__}"
            lines.append(f"| `falaj {name}` | {_first_sentence(function)} |")
    for service_name in SERVICES:
        for action in service_classes()[service_name].actions():
            path = "".join(f" {name.upper()}" for name in action.path_arguments)
            told = _first_sentence(action.function)
            lines.append(f"| `falaj {service_name} {action.command}{path}` | {told} |")
    return lines


def held(page: str, lines: list[str]) -> None:
    """The page holds these lines between its markers; written there if the caller asks for it."""
    file = GUIDE / page
    text = file.read_text(encoding="utf-8")
    begin, end = "<!-- made by tests/docs/test_tables.py -->\n", "<!-- end -->"
    head, tail = text.index(begin) + len(begin), text.index(end)
    wanted = "\n" + "\n".join(lines) + "\n\n"
    if os.environ.get("FALAJ_WRITE_DOCS"):
        file.write_text(text[:head] + wanted + text[tail:], encoding="utf-8")
        return
    assert text[head:tail] == wanted


def _first_sentence(function: object) -> str:
    text = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    return text.replace("``", "`").replace("|", "\\|")


def test_the_table_of_permissions_is_what_the_policy_decides() -> None:
    held("trust.md", permissions())


def test_every_command_is_listed() -> None:
    held("command-line.md", commands())


def test_every_error_is_explained_with_its_kind() -> None:
    for module in pkgutil.walk_packages(falaj.__path__, "falaj."):
        if ".migrations" not in module.name and ".testing" not in module.name:
            importlib.import_module(module.name)
    known = {
        code: error.kind.value
        for code, error in error_classes().items()
        if error.__module__.startswith("falaj.") and ".testing" not in error.__module__
    }
    text = (GUIDE / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z_]+) \| .+ \| (.+) \|$", text, re.MULTILINE)
    assert {code: kind for code, kind, _ in rows} == known
    assert all(remedy.strip() for _, _, remedy in rows)

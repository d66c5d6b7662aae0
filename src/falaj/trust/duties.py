"""Duties: groups of actions that the policies speak of.

Roles are written over duties, duties over names of actions (``service.verb``), so that a room
that gains an action gives it to the right people without a change of policy. An action that no
duty names can be read if it is a GET, and changed by nobody: the default is no.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from falaj.kernel.actions import PLATFORM, Action

DUTIES: Mapping[str, tuple[str, ...]] = {
    "everyone": ("accounts.me",),
    "own_sessions": (
        "accounts.sessions",
        "accounts.revoke_sessions",
        "accounts.factors",
        "accounts.remove_factor",
    ),
    "own_jobs": ("jobs.cancel", "jobs.retry"),
    "experiment": (
        "training.*",
        "tables.upload",
        "training_sets.*",
        "runs.*",
        "loggedmodels.*",
        "experiments.*",
        "studies.*",
        "models.register*",
        "models.create*",
        "models.import*",
        "models.package*",
        "models.log*",
        "models.tag*",
        "models.untag*",
        "models.describe*",
        "models.set_alias",
        "models.remove_alias",
        "models.adopt",
        "models.card*",
        "models.gates",
        "ci.propose",
        "definitions.plan",
    ),
    "engineer": (
        "sources.*",
        "ingest.*",
        "pipelines.*",
        "contracts.*",
        "tables.*",
        "lake.*",
        "features.*",
        "entities.*",
        "definitions.*",
        "endpoints.*",
        "releases.*",
        "models.*",
        "monitors.*",
        "retraining.*",
        "rollouts.*",
        "scoring.*",
        "batches.*",
        "assets.describe",
        "assets.tag*",
        "alerts.*",
        "incidents.*",
        "problems.*",
        "silences.*",
        "jobs.*",
    ),
    "approve": ("changes.approve", "changes.reject", "changes.decide", "changes.review"),
    "request": ("changes.open", "changes.request", "changes.withdraw", "changes.comment"),
    "comment": ("changes.comment",),
    "steward": (
        "assets.*",
        "tags.*",
        "classifications.*",
        "tables.classify",
        "contracts.*",
        "definitions.*",
        "purposes.*",
        "consents.*",
        "retention.*",
        "privacy.*",
        "*.quarantine*",
    ),
    "operate": (
        "jobs.*",
        "alerts.*",
        "incidents.*",
        "problems.*",
        "service_levels.*",
        "notifications.*",
        "changes.record_emergency",
        "silences.*",
        "receivers.*",
        "webhooks.*",
        "endpoints.activate",
        "endpoints.deactivate",
        "endpoints.rollback",
        "endpoints.scale",
        "models.revoke",
        "models.revoke_signer",
        "models.quarantine*",
        "models.release",
        "rollouts.*",
        "monitors.*",
        "retraining.*",
        "tables.compact*",
        "tables.expire*",
        "backups.*",
        "platform.*",
        "costs.set_prices",
    ),
    "keys": ("keys.*", "certificates.revoke*"),
    "certify": ("certificates.issue",),
    "audit": ("audit.*",),
    "administer": (
        "accounts.*",
        "ci.deploy_key",
        "policy.*",
        "provisioning.hand_over",
        "provisioning.settle",
    ),
    "provision": (
        "provisioning.create_*",
        "provisioning.put_*",
        "provisioning.patch_*",
        "provisioning.remove_*",
    ),
    "grant": (
        "accounts.set_roles",
        "accounts.invite",
        "accounts.grant*",
        "ci.deploy_key",
        "provisioning.hand_over",
    ),
    "serve": (
        "endpoints.predict*",
        "predictions.predict*",
        "features.read",
        "features.read_online",
        "features.online*",
        "features.push*",
        "sources.push*",
        "events.push*",
    ),
    "erase": ("*.erase*", "*.destroy*", "*.purge*"),
    "ci_plan": ("definitions.plan", "assets.get"),
    "ci_apply": ("definitions.plan", "definitions.apply", "assets.get"),
    "ci_gate": ("models.gates", "models.gate_report", "models.versions", "jobs.get", "assets.get"),
    "ci_propose": ("ci.propose", "assets.get"),
    "ci_deploy": ("endpoints.deploy", "assets.get"),
}
"""Patterns over names of actions. What ``erase`` or ``keys`` names belongs to no other duty."""

RESTRICTED = {
    "accounts": "read_accounts",
    "audit": "audit",
    "certificates": "read_keys",
    "keys": "read_keys",
    "policy": "read_accounts",
    "privacy": "read_privacy",
    "provisioning": "read_provisioned",
    "webhooks": "read_keys",
}
"""Services whose reading is not for everyone, and the group that their reading stands in."""

DATA_VERBS = frozenset(
    {
        "download",
        "export",
        "fetch_artifact",
        "frame",
        "head",
        "preview",
        "query",
        "read",
        "read_online",
        "records",
        "rows",
        "sample",
        "scan",
        "training_frame",
    }
)
"""Verbs that answer with rows or values, not with what is known about them."""
NOT_DATA = frozenset(
    {
        "policy",
        "accounts",
        "audit",
        "certificates",
        "keys",
        "jobs",
        "alerts",
        "incidents",
        "problems",
        "changes",
    }
)

GROUPS = tuple(
    dict.fromkeys(
        (
            *DUTIES,
            "read",  # GET, of what is known about things
            "data",  # rows and values, by any method
            "rows",  # data of one asset
            "artifacts",  # rows that are a file of a run or a logged model
            "query",  # data by a statement that names its assets inside
            "change",  # anything that is not a GET
            "sensitive",  # needs a fresh second factor
            *RESTRICTED.values(),
        )
    )
)


@dataclass(frozen=True, slots=True)
class Grouped:
    """An action's name and the groups that it stands in."""

    name: str
    groups: tuple[str, ...]


def grouped(actions: Iterable[Action]) -> dict[str, Grouped]:
    """The groups of each action, by its name."""
    return {action.name: Grouped(action.name, tuple(_groups(action))) for action in actions}


def unassigned(actions: Iterable[Action]) -> list[str]:
    """The names of actions that no duty and no group of reading names: nobody may do them."""
    idle = {"change", "sensitive"}
    return sorted(name for name, item in grouped(actions).items() if set(item.groups) <= idle)


def _groups(action: Action) -> list[str]:
    found = []
    erases = _fits(action.name, DUTIES["erase"])
    of_keys = action.service == "keys"
    is_data = action.verb in DATA_VERBS and action.service not in NOT_DATA
    is_get = action.method == "GET"
    for duty, patterns in DUTIES.items():
        if not _fits(action.name, patterns):
            continue
        if (of_keys and duty != "keys") or (erases and not of_keys and duty != "erase"):
            continue
        # Reading is not part of a working duty; it has groups of its own.
        named = action.name in patterns or duty in ("serve", "audit")
        if named or not (is_get or is_data):
            found.append(duty)
    if is_data:
        found += ["data", "query" if action.on == PLATFORM else "rows"]
        if action.verb == "fetch_artifact":
            found.append("artifacts")
    elif is_get:
        found.append(RESTRICTED.get(action.service, "read"))
    if not is_get:
        found.append("change")
    if action.step_up:
        found.append("sensitive")
    return list(dict.fromkeys(found))


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    whole, others = _sorted(patterns)
    return name in whole or any(fnmatchcase(name, pattern) for pattern in others)


@cache
def _sorted(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Names that are written out, and true patterns: of these fnmatch remembers 256 only."""
    others = tuple(one for one in patterns if any(sign in one for sign in "*?["))
    return frozenset(patterns).difference(others), others

"""Which team somebody works for: by the settings, and by groups of an identity provider."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.engine import Connection

from falaj.kernel.errors import Forbidden
from falaj.kernel.fairshare import Quota
from falaj.kernel.resources import thousandths
from falaj.kernel.settings_queue import DEFAULT_TEAM, QueueSettings
from falaj.trust.provisioning_tables import provisioned_groups, provisioned_members
from falaj.trust.tables import accounts

_GROUP = "group:"


class Teams:
    """The teams that the settings declare."""

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings

    def names(self) -> list[str]:
        """All teams, the one of everybody last."""
        declared = [team.name for team in self._settings.teams if team.name != DEFAULT_TEAM]
        return [*declared, DEFAULT_TEAM]

    def of(self, connection: Connection, principal: str) -> list[str]:
        """The teams of somebody, in the order of the settings; everybody is in the last one."""
        ways = {principal}
        if any(_GROUP in member[: len(_GROUP)] for one in self._settings.teams
               for member in one.members):  # fmt: skip
            ways |= {_GROUP + name for name in self._groups(connection, principal)}
        found = [team.name for team in self._settings.teams if ways & set(team.members)]
        return [*found, DEFAULT_TEAM] if DEFAULT_TEAM not in found else found

    def chosen(self, connection: Connection, principal: str, wanted: str | None) -> str:
        """The team that a run of somebody belongs to.

        Raises:
            Forbidden: it is not one of theirs.
        """
        theirs = self.of(connection, principal)
        if wanted is None:
            return theirs[0]
        if wanted not in theirs:
            raise Forbidden(
                f"{principal} is not of the team {wanted!r}.",
                hint=f"Choose one of: {', '.join(theirs)}; or have the operator add you"
                " (settings, queue.teams).",
            )
        return wanted

    def quota(self, team: str) -> Quota:
        """What a team may use at one time."""
        rule = self._settings.team(team)
        return Quota(
            weight=rule.weight,
            max_runs=rule.max_runs,
            max_cpu_thousandths=None if rule.max_cpus is None else thousandths(rule.max_cpus),
            max_gpu_thousandths=None if rule.max_gpus is None else thousandths(rule.max_gpus),
        )

    @staticmethod
    def _groups(connection: Connection, principal: str) -> list[str]:
        kind, _, name = principal.partition(":")
        if kind != "user":
            return []
        rows = connection.execute(
            select(provisioned_groups.c.display_name)
            .join(provisioned_members, provisioned_members.c.group_id == provisioned_groups.c.id)
            .join(accounts, accounts.c.id == provisioned_members.c.account)
            .where(accounts.c.name == name)
        )
        return [row.display_name for row in rows]

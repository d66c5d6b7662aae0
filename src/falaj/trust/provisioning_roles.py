"""From groups of an identity provider to roles, by a map that only the operator can write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings_provisioning import GroupRule
from falaj.trust.model import Role

_FOR_PROGRAMS = frozenset({Role.SERVICE, Role.PROVISIONER})


@dataclass(frozen=True)
class MappedGroup:
    """A group that gives roles."""

    group: str
    roles: tuple[Role, ...]
    provisioner: str
    """Whose group it is, as a principal; empty: anybody's."""
    external_id: str
    """The group's id at its provider, which must be this one too; empty: any."""


class RoleMap:
    """Which roles the members of a group are given; a group that it does not name gives none.

    Args:
        rules: the setting ``provisioning.groups``.

    Raises:
        InvalidInput: a rule gives a role that does not exist, or is not for people.
    """

    def __init__(self, rules: Iterable[GroupRule] = ()) -> None:
        self._mapped = [_mapped(rule) for rule in rules]

    def of_group(
        self, provisioner: str, display_name: str, external_id: str | None
    ) -> tuple[Role, ...]:
        """The roles of a group's members, sorted.

        Args:
            provisioner: the principal that keeps the group.
        """
        found = {
            role
            for one in self._mapped
            if one.group == display_name
            and one.provisioner in ("", provisioner)
            and one.external_id in ("", external_id)
            for role in one.roles
        }
        return tuple(sorted(found))

    def roles(self) -> Sequence[Role]:
        """Every role that some group gives."""
        return sorted({role for one in self._mapped for role in one.roles})

    def __len__(self) -> int:
        return len(self._mapped)


def _mapped(rule: GroupRule) -> MappedGroup:
    roles = []
    for name in rule.roles:
        try:
            role = Role(name)
        except ValueError:
            raise InvalidInput(
                f"The setting provisioning.groups gives the role {name!r}, which does not exist.",
                hint=f"There are: {', '.join(role.value for role in Role)}.",
            ) from None
        if role in _FOR_PROGRAMS:
            raise InvalidInput(
                f"The setting provisioning.groups gives people the role {name!r}.",
                hint="It is for service accounts.",
            )
        roles.append(role)
    provisioner = f"service:{rule.provisioner}" if rule.provisioner else ""
    return MappedGroup(rule.group, tuple(roles), provisioner, rule.external_id)

"""Whose rows a training set holds: rules that it inherits from its spine and its views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from falaj.features.plan import ServicePlan, column_name
from falaj.lake.personal import PersonalGroup, PersonalRule, rule_of, rule_of_query

if TYPE_CHECKING:
    from falaj.features.plan import ViewUse
    from falaj.lake.ports import Lake
    from falaj.training.spines import Spine


def rule_of_set(
    lake: Lake,
    table: str,
    spine: Spine,
    service: str | ServicePlan,
    columns: Sequence[str],
    *,
    answered: Sequence[str] = (),
) -> PersonalRule | None:
    """The rule of a set's table; None if it holds nothing about data subjects.

    A column of the spine belongs to whom its table or query says, the features of a view
    about subjects to the subject of the view, an on-demand feature to whom its inputs
    belong. A column is sealed once, for the first of them.

    Args:
        columns: of the set, in order.
        answered: those that the spine's query gives, if it is asked as it stands.
    """
    found = _Groups(columns)
    for name in dict.fromkeys(name for name, _ in spine.tables):
        found.take(rule_of(lake, name))
    if not spine.tables and spine.query is not None:
        found.take(rule_of_query(lake, spine.query, table, answered))
    if isinstance(service, ServicePlan):
        for use in service.views:
            found.take_view(use)
        for computed in service.on_demand:
            name = computed.definition.name
            outputs = [
                column_name(f"{name}:{output.name}") for output in computed.definition.outputs
            ]
            found.take_derived([column for _, column, _ in computed.inputs], outputs)
    return found.rule(table)


class _Groups:
    """Groups on their way: each column of the set belongs to one of them at most."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._there = set(columns)
        self._kinds: dict[str, str] = {}
        self._owner: dict[str, str] = {}

    def take(self, rule: PersonalRule | None) -> None:
        """What a table of the spine says."""
        for group in () if rule is None else rule.groups:
            self._own(group.subject, group.kind, group.columns)

    def take_view(self, use: ViewUse) -> None:
        """What a view about subjects says."""
        view = use.plan.view
        if view.subject is None:
            return
        column = dict(zip(use.plan.keys, use.key_columns, strict=True))[view.subject]
        features = [column_name(f"{view.name}:{feature}") for feature in use.features]
        self._own(column, view.subject_kind, features)

    def take_derived(self, inputs: Iterable[str], outputs: Sequence[str]) -> None:
        """What is computed of a subject's values is the subject's."""
        owners = [self._owner[name] for name in inputs if name in self._owner]
        owners += [name for name in inputs if name in self._kinds]
        if owners:
            self._own(owners[0], self._kinds[owners[0]], outputs)

    def _own(self, subject: str, kind: str, columns: Iterable[str]) -> None:
        if subject not in self._there:
            return
        self._owner.pop(subject, None)  # it names somebody itself, who is erased by it
        self._kinds.setdefault(subject, kind)
        for name in columns:
            if name in self._there and name not in self._kinds:
                self._owner.setdefault(name, subject)

    def rule(self, table: str) -> PersonalRule | None:
        """The rule that came of it."""
        columns: Mapping[str, list[str]] = {subject: [] for subject in self._kinds}
        for name, subject in self._owner.items():
            columns[subject].append(name)
        groups = tuple(
            PersonalGroup(subject=subject, kind=self._kinds[subject], columns=tuple(owned))
            for subject, owned in columns.items()
        )
        return PersonalRule(table=table, groups=groups) if groups else None


__all__ = ["rule_of_set"]

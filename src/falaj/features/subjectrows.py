"""The online rows of one person, found to be counted or removed.

They are found by the person's pseudonym, which stands in their keys. Once the person's key
is destroyed nobody can read them; to remove them frees their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from falaj.features.ports import OnlineStore
from falaj.features.subjectsealing import pseudonym_of
from falaj.features.versions import AppliedViews, live_plans
from falaj.features.views import ViewPlan
from falaj.trust.subjectciphers import PSEUDONYM
from falaj.trust.subjects import SubjectKey

_ROWS_AT_ONCE = 5_000


class OnlineRows:
    """What the online store holds of a person: latest rows, heads and tiles of windows;
    fulfils ``SubjectCopies``.

    Args:
        definitions: the applied ones; rows of every live version of a view count.
        online: where rows are.
    """

    name = "online store"

    def __init__(self, definitions: AppliedViews, online: OnlineStore) -> None:
        self._definitions = definitions
        self._online = online

    def count(self, key: SubjectKey) -> dict[str, int]:
        """How many rows each view has of the person."""
        found: dict[str, int] = {}
        for plan in self._plans(key):
            n_rows = sum(1 for _ in self._keys(plan, key))
            if n_rows:
                found[plan.name] = found.get(plan.name, 0) + n_rows
        return found

    def forget(self, key: SubjectKey) -> int:
        """Remove the rows; returns how many there were. Raises as the store does."""
        n_rows = 0
        for plan in self._plans(key):
            keys = self._keys(plan, key)
            while some := list(islice(keys, _ROWS_AT_ONCE)):
                n_rows += self._online.forget(some)
        return n_rows

    def _plans(self, key: SubjectKey) -> Iterator[ViewPlan]:
        for plan in live_plans(self._definitions):
            if plan.view.subject is not None and plan.view.subject_kind == key.subject.kind:
                yield plan

    def _keys(self, plan: ViewPlan, key: SubjectKey) -> Iterator[bytes]:
        pseudonym = PSEUDONYM.pack(key.pseudonym)
        if not plan.view.aggregates:
            yield from self._online.keys(plan.storage_id + pseudonym)
            return
        mark = plan.storage_id  # the row of the view itself; time comes before the entity
        for one in self._online.keys(plan.storage_id):
            if one != mark and pseudonym_of(one) == pseudonym:
                yield one

"""The offline execution: the features of a spine, as they were known at each row's instant.

Views are answered from their indexes (``index``), which hold what the lake holds; what a
feature means is written in ``pointintime`` and ``windows``. A frame is made of a spine that
may be one batch of a larger one: indexes are kept, so a batch costs its own rows only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from falaj.features.columns import Ints, column_of, instants
from falaj.features.foreign_join import Foreign
from falaj.features.index.indexes import Indexes, source_events
from falaj.features.kernels import plain
from falaj.features.model import Knowledge
from falaj.features.plan import ServicePlan, ViewUse
from falaj.features.pointintime import latest_values
from falaj.features.views import Events, ViewPlan, empty_source
from falaj.features.windows import aggregated
from falaj.kernel.errors import InvalidInput, NotFound


class Offline:
    """Computes features from the lake.

    Args:
        indexes: of the views, over the lake.
        foreign: the views whose rows lie elsewhere.
    """

    def __init__(self, indexes: Indexes, foreign: Foreign | None = None) -> None:
        self._indexes = indexes
        self._lake = indexes.lake
        self.foreign = foreign or Foreign(None, None)

    def frame(
        self,
        spine: pa.Table,
        plan: ServicePlan,
        *,
        timestamp: str = "timestamp",
        knowledge: Knowledge | str = Knowledge.RECORDED,
        snapshot: int | None = None,
        pins: Mapping[str, str] | None = None,
    ) -> pa.Table:
        """The spine with the features of a service, as known at each row's instant.

        Args:
            spine: n rows with the entity keys, the request fields and an instant; all, or
                one batch of them.
            plan: the service.
            timestamp: the spine's column of instants (with a zone; none may be null).
            knowledge: ``recorded`` hides rows that were recorded later than the instant.
            snapshot: the lake snapshot to read; by default the latest. Batches of one
                spine name the same.
            pins: the versions of foreign tables to read, as ``foreign.pins`` gave them; by
                default those that are there.

        Returns:
            Exactly one row for each spine row, in order: the spine's columns, then one
            column ``view__feature`` for each feature of the service.

        Raises:
            NotFound: no such snapshot. InvalidInput: a column is not there or of another
                type. ForeignChanged: a foreign table is not what its pin says.
        """
        asked = instants(column_of(spine, timestamp, of="The spine"), timestamp)
        if not asked.valid.all():
            raise InvalidInput(
                f"The spine's column {timestamp!r} has {int((~asked.valid).sum())} nulls.",
                hint="Every row of a spine needs its instant.",
            )
        known = set(spine.column_names)
        for name in plan.outputs:
            if name in known and name not in plan.request_fields:
                raise InvalidInput(
                    f"The spine has a column {name!r}, as the service has a feature.",
                    hint="Rename it in the spine.",
                )
        at_snapshot = self._lake.latest() if snapshot is None else snapshot
        how = Knowledge(knowledge)
        foreign = self.foreign.views((use.plan for use in plan.views), pins or {})

        def look_up(use: ViewUse, keys: Sequence[pa.Array], at: Ints) -> Mapping[str, pa.Array]:
            if use.plan.name in foreign:
                return foreign[use.plan.name].features(use.features, keys, at, how)
            return self.values(use.plan, use.features, keys, at, how, at_snapshot)

        names, columns = spine.column_names, list(spine.columns)
        times = plain(asked.values, np.int64)
        for name, column in plan.offline(spine, times, look_up).items():
            if name in plan.request_fields:
                columns[spine.schema.get_field_index(name)] = column
            else:
                names.append(name)
                columns.append(column)
        frame = pa.Table.from_arrays(columns, names=names)  # adding each to a table is quadratic
        return frame.replace_schema_metadata(spine.schema.metadata)

    def values(
        self,
        plan: ViewPlan,
        features: Sequence[str],
        keys: Sequence[pa.Array],
        at: Ints,
        knowledge: Knowledge,
        snapshot: int,
    ) -> dict[str, pa.Array]:
        """Features of a view for some entities at some instants.

        Args:
            features: which of the view's.
            keys: the entity's key columns, typed, m rows each.
            at: (m,) UTC microseconds.
            knowledge: whether rows recorded later than ``at`` are invisible.
            snapshot: of the lake.

        Returns:
            By feature an Arrow array of m rows, null where nothing is known.
        """
        runs, bound = self._indexes.runs(plan, snapshot)
        answer = latest_values if plan.view.features else aggregated
        hide_late = knowledge is Knowledge.RECORDED
        return answer(plan, features, runs, keys, at, hide_late=hide_late, bound=bound)

    def events(self, plan: ViewPlan, snapshot: int | None = None) -> Events:
        """All events of a view, in the order of the log of its source."""
        for view in self.foreign.views([plan], {}).values():
            return view.events()
        at = self._lake.latest() if snapshot is None else snapshot
        try:
            events, _ = source_events(self._lake, plan, at)
        except NotFound:
            return plan.events(empty_source(plan))
        positions = events.positions
        if positions is None or bool((positions[1:] > positions[:-1]).all()):
            return events
        return events.take(np.argsort(positions))

"""Requests that were served, for the parity check: from the logs of reads and of predictions."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from falaj.features.parity import SINGLE_TOLERANCE, Served
from falaj.features.plan import ServicePlan
from falaj.features.types import DType
from falaj.kernel.clock import microseconds
from falaj.serving.compositions import opened
from falaj.serving.model import Release
from falaj.serving.tables import endpoint_rows, release_row

if TYPE_CHECKING:
    from falaj.catalog.definitions import Definitions
    from falaj.kernel.clock import Clock
    from falaj.kernel.database import Database
    from falaj.lake.ports import Lake
    from falaj.serving.ports import Bundles

READS = "feature_reads"
"""The lake table of online reads; of some it holds what was asked and answered."""
WINDOW = timedelta(days=1)
SETTLED = timedelta(seconds=60)
"""So long after a definition was applied, all workers read by it."""
PROMPT = timedelta(seconds=10)
"""A request that is answered as of an instant farther away asked about another time."""


class LoggedRequests:
    """Finds served requests in the lake; fulfils ``features.parity.ServedRequests``.

    Args:
        lake: holds the logs.
        database, definitions: tell since when the service is what it is.
        bundles: name the inputs of a model version.
        clock: tells how far back to look.
    """

    def __init__(
        self,
        lake: Lake,
        database: Database,
        definitions: Definitions,
        bundles: Bundles,
        clock: Clock,
    ) -> None:
        self._lake = lake
        self._database = database
        self._definitions = definitions
        self._bundles = bundles
        self._clock = clock

    def sample(
        self, plan: ServicePlan, n: int, *, seed: int
    ) -> Sequence[tuple[ServicePlan, Served]]:
        """See ``ServedRequests.sample``."""
        groups = [(plan, self._reads(plan, n)), *self._predictions(plan.service.name, n)]
        return [(compiled, served.sample(n, seed=seed)) for compiled, served in groups]

    def _reads(self, plan: ServicePlan, n: int) -> Served:
        """Reads of the service since it and all that it refers to are what they are."""
        if not self._lake.exists(READS):
            return Served([], [], [])
        found = self._lake.query(
            f"SELECT read_at, asked, answered FROM {READS} WHERE service = $service"
            " AND asked IS NOT NULL AND read_at >= $since AND read_at <= $until"
            " ORDER BY read_at DESC LIMIT $n",
            parameters={
                "service": plan.service.name,
                "since": max(self._applied_at(plan) + SETTLED, self._clock.now() - WINDOW),
                "until": self._clock.now(),
                "n": n,
            },
        )
        columns = list(plan.outputs)
        rows, at_us, values = [], [], []
        for row in found.to_pylist():
            asked, answered = json.loads(row["asked"]), json.loads(row["answered"])
            if isinstance(asked, dict) and set(columns) <= set(answered):
                rows.append(_row(plan, asked))
                at_us.append(microseconds(row["read_at"]))
                values.append([answered[name] for name in columns])
        return Served(rows, at_us, values, columns, stated=_in_json)

    def _applied_at(self, plan: ServicePlan) -> datetime:
        parts = [plan.service, *plan.entities, *(use.plan.view for use in plan.views),
                 *(use.definition for use in plan.on_demand)]  # fmt: skip
        with self._database.reading() as connection:
            return max(
                self._definitions.version(connection, part.kind, part.name).at for part in parts
            )

    def _predictions(self, service: str, n: int) -> list[tuple[ServicePlan, Served]]:
        with self._database.reading() as connection:
            serving = [
                (row.lake_table, Release.model_validate(found.document))
                for row in endpoint_rows(connection)
                if row.active and (found := release_row(connection, row.active)) is not None
            ]
        groups = []
        for table, release in serving:
            if release.feature_service != service or release.features is None:
                continue
            if not self._lake.exists(table):
                continue
            plan = ServicePlan.from_documents(release.features["definitions"])
            for variant in release.variants:
                groups.append((plan, self._logged(table, release.id, variant, plan, n)))
        return groups

    def _logged(self, table: str, release: str, variant: Any, plan: ServicePlan, n: int) -> Served:
        parameters = {
            "release": release,
            "variant": variant.name,
            "since": self._clock.now() - WINDOW,
            "prompt": PROMPT // timedelta(microseconds=1),
        }
        where = (
            "release = $release AND variant = $variant AND requested_at >= $since"
            " AND abs(epoch_us(requested_at) - epoch_us(predicted_for)) <= $prompt"
        )
        # First which, then what they say: only of these is opened what is sealed.
        asked_at = self._lake.scan(
            table, columns=["requested_at"], where=where, parameters=parameters
        ).column(0)
        if not len(asked_at) or n < 1:
            return Served([], [], [])
        latest_first = asked_at.take(pc.sort_indices(asked_at, [("", "descending")]))
        oldest = latest_first[min(n, len(latest_first)) - 1].as_py()
        found = self._lake.scan(
            table,
            columns=["predicted_for", "fields", "features"],
            where=where,
            parameters={**parameters, "since": oldest},
        )
        found = found.filter(found.column("fields").is_valid())  # the others were erased
        inputs = opened(self._bundles, variant).inputs
        numbers = {
            name: place
            for place, name in enumerate(inputs)
            if isinstance(plan.outputs.get(name), DType)
            and plan.outputs[name] not in (DType.STRING, DType.BYTES)
        }
        logged = found.to_pylist()
        return Served(
            [_row(plan, json.loads(row["fields"])) for row in logged],
            [microseconds(row["predicted_for"]) for row in logged],
            [[_known(row["features"][place]) for place in numbers.values()] for row in logged],
            list(numbers),
            stated=_in_single,
            tolerance=SINGLE_TOLERANCE,
        )


def _row(plan: ServicePlan, asked: dict[str, Any]) -> dict[str, Any]:
    """A request row with its instants as microseconds, however they were written."""
    instants = {
        name: microseconds(datetime.fromisoformat(asked[name]))
        for name, dtype in plan.request_fields.items()
        if dtype is DType.TIMESTAMP and isinstance(asked.get(name), str)
    }
    return {**asked, **instants}


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _in_single(value: Any) -> float | None:
    """A value as the prediction log keeps it: float32, null for NaN."""
    return None if value is None else _known(float(np.float32(value)))


def _in_json(value: Any) -> Any:
    """A value as JSON writes it: null for NaN, base64 for bytes."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, list):
        return [_in_json(item) for item in value]
    return value

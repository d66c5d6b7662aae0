"""The job that brings a view's online rows up to date."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from falaj.features.store import FeatureStore
from falaj.kernel.calls import Calls
from falaj.kernel.jobs import JobRun


class Materialization:
    """Handler of ``features.materialize``. Done twice, it gives the same rows.

    Args:
        store: does the work.
        calls: opens the transaction that records it.
    """

    def __init__(self, store: FeatureStore, calls: Calls) -> None:
        self._store = store
        self._calls = calls

    def __call__(self, run: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Materialise ``arguments["view"]`` up to ``arguments["upto"]`` (ISO 8601 or None)."""
        view, upto = str(arguments["view"]), arguments.get("upto")
        until = datetime.fromisoformat(upto) if upto else None
        done = self._store.materialize(view, until, report=run.report)
        result = done.model_dump(mode="json")
        with self._calls.opened(
            "features.materialize",
            run.submitted_by,
            resource=f"feature_view:{view}",
            arguments=dict(arguments),
        ) as call:
            call.note(**result)
            call.emit("features.materialized", **result)
        return result

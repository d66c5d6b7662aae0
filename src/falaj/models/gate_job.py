"""The job that runs the gates of a version and keeps the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import NotFound
from falaj.models.gates import NOTHING_AROUND, Around
from falaj.models.gating.asking import personal_columns
from falaj.models.gating.origin import unjudged
from falaj.models.model import GateReport, ModelVersion
from falaj.training.ports import Report, untold

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.calls import Calls
    from falaj.kernel.jobs import JobRun
    from falaj.models.gates import Gates
    from falaj.models.registry import Registry
    from falaj.training.model import TrainingSet
    from falaj.training.training_sets import TrainingSets


class GateJob:
    """Handles ``models.gates``; arguments ``model`` and ``version``."""

    def __init__(
        self,
        calls: Calls,
        registry: Registry,
        gates: Gates,
        training_sets: TrainingSets,
        catalog: Catalog,
    ) -> None:
        self._catalog = catalog
        self._calls = calls
        self._registry = registry
        self._gates = gates
        self._training_sets = training_sets

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run the gates; returns the report as JSON."""
        made = self.run(
            str(arguments["model"]), int(arguments["version"]), job.submitted_by, job.report
        )
        return made.model_dump(mode="json")

    def run(
        self,
        model: str,
        version: int,
        principal: str,
        report: Report = untold,
    ) -> GateReport:
        """Measure outside of a transaction, then keep the report in a short one.

        Raises:
            NotFound: the version, its training set, or a policy is missing.
        """
        champion: ModelVersion | None
        with self._calls.database.reading() as connection:
            judged = self._registry.version(connection, model, version)
            policy = self._registry.policy(connection, model)
            made = (
                self._training_sets.get(connection, judged.training_set)
                if judged.training_set
                else None
            )
            champion = self._registry.champion(connection, model)
            if champion is not None and champion.version == version:
                champion = None
            rival_set = (
                self._training_sets.get(connection, champion.training_set)
                if champion is not None and champion.training_set
                else None
            )
            around = NOTHING_AROUND if made is None else self._around(connection, judged, made)
        if made is None:
            results = unjudged(judged.bundle)
        else:
            report(0.02, "reading the training set")
            results = self._gates.evaluate(
                policy,
                bundle=judged.bundle,
                training_set=made,
                rows=self._training_sets.load(made),
                champion=champion.bundle if champion else None,
                champion_set=rival_set,
                champion_version=champion.version if champion else None,
                around=around,
                report=lambda share, told: report(0.1 + 0.9 * share, told),
            )
        with self._calls.opened(
            "models.gates", principal, resource=f"model_version:{model}/{version}"
        ) as call:
            return self._registry.keep_report(
                call,
                judged,
                policy_fingerprint=policy.fingerprint,
                champion=champion.version if champion else None,
                results=results,
            )

    def _around(self, connection: Connection, judged: ModelVersion, made: TrainingSet) -> Around:
        """What is known of the training set's columns, and of who made the version."""
        try:
            service = self._training_sets.pinned_then(connection, made).service
        except NotFound:
            service = ""
        known = None if isinstance(service, str) else service.outputs
        personal = personal_columns(self._catalog, connection, made.table)
        return Around(
            declared=None if known is None else {name: str(kind) for name, kind in known.items()},
            personal=personal,
            owner=judged.created_by,
        )

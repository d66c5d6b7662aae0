"""Asking for the gates of a version: who may let rows be cut by what.

Gates tell figures over many rows, to those who may see the model. But to cut rows by a personal
or sensitive column is to compute with it: whoever asks must see the column in clear, for a purpose
that the training set permits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.catalog.columns import OF_PEOPLE, ColumnLineage
from falaj.features.purposes import refuse_unless
from falaj.models.gating.examined import columns_grouped_by
from falaj.models.model import GATES_JOB

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.kernel.jobs import Job, Jobs
    from falaj.lake.reading import GuardedLake
    from falaj.models.registry import Registry
    from falaj.training.training_sets import TrainingSets


def personal_columns(catalog: Catalog, connection: Connection, table: str) -> frozenset[str]:
    """The columns of a table, in lower case, that are personal or sensitive now."""
    classes = ColumnLineage(catalog, connection).classes(table)
    return frozenset(name for name, level in classes.items() if level in OF_PEOPLE)


class GateAsking:
    """Submits the job that runs the gates of a version.

    Args:
        guarded: tells what a caller sees of a table.
    """

    def __init__(
        self,
        registry: Registry,
        training_sets: TrainingSets,
        guarded: GuardedLake,
        catalog: Catalog,
        jobs: Jobs,
    ) -> None:
        self._registry = registry
        self._training_sets = training_sets
        self._guarded = guarded
        self._catalog = catalog
        self._jobs = jobs

    def ask(self, call: Call, model: str, version: int) -> Job:
        """Check what the caller may compute with, and submit the job.

        Raises:
            NotFound: there is no such version, or no policy for the model.
            SeenInPart: rows would be cut by a personal column that the caller sees masked.
            PurposeRefused: they would be, and the training set permits not this purpose.
        """
        found = self._registry.bundled(call.connection, model, version)
        policy = self._registry.policy(call.connection, model)
        arguments: dict[str, Any] = {"model": model, "version": version}
        grouped = columns_grouped_by(policy)
        if found.training_set and grouped:
            made = self._training_sets.get(call.connection, found.training_set)
            personal = personal_columns(self._catalog, call.connection, made.table)
            cut_by = [name for name in grouped if name.lower() in personal]
            if cut_by:
                purpose = call.caller.purpose
                refuse_unless(made.permitted_purposes, purpose, made.spec.feature_service)
                self._guarded.check_clear(call, made.table, cut_by, todo="judge groups of")
                call.note(grouped_by=cut_by, purpose=purpose)
        return self._jobs.submit(call, GATES_JOB, arguments)

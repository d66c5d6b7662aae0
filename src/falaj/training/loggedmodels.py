"""Logged models: models as a training run wrote them down, before anybody registers one.

All functions work in the caller's transaction. A logged model is an asset of the catalogue,
made by its run if it has one; its files are artifacts (``artifacts.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import delete, insert, select, update

from falaj.catalog.model import Relation
from falaj.kernel.actions import is_writable
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_all_absent
from falaj.training.artifacts import Shelf
from falaj.training.loggedmodeltables import (
    logged_artifact_rows,
    logged_model_rows,
    logged_param_rows,
    logged_tag_rows,
)
from falaj.training.model import DEFAULT_WORKSPACE
from falaj.training.tables import experiment_rows, model_metric_rows

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Connection, Row

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.training.tracking.experiments import Experiments

KIND = "logged_model"
"""Of a logged model in the catalogue."""
LOGGED_MODELS = Shelf(KIND, logged_artifact_rows, "model_id")
LONGEST_KEY = 250
LONGEST_PARAM = 6_000
LONGEST_TAG = 8_000
_FORBIDDEN = frozenset("/:.%\"'")


class LoggedStatus(StrEnum):
    """Whether a logged model is whole."""

    PENDING = "pending"
    """Its files are being written."""
    READY = "ready"
    FAILED = "failed"


class LoggedMetric(BaseModel):
    """The last value of a metric of a logged model, and of which data it is."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    key: str
    value: float
    step: int
    at: datetime
    run: str
    dataset: str | None = None
    dataset_digest: str | None = None


class LoggedModel(BaseModel):
    """A model that was logged."""

    model_config = ConfigDict(ser_json_inf_nan="strings", protected_namespaces=())

    id: str
    experiment_id: str
    name: str
    model_type: str | None = None
    source_run: str | None = None
    status: LoggedStatus
    status_message: str | None = None
    created_at: datetime
    created_by: str
    updated_at: datetime
    deleted_at: datetime | None = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: tuple[LoggedMetric, ...] = ()


ModelText = Annotated[str, Field(min_length=1, max_length=500)]


class LoggedModels:
    """Logged models in the metadata database."""

    def __init__(self, catalog: Catalog, experiments: Experiments) -> None:
        self._catalog = catalog
        self._experiments = experiments

    def create(
        self,
        call: Call,
        *,
        experiment: str,
        name: str | None = None,
        model_type: str | None = None,
        source_run: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        workspace: str = DEFAULT_WORKSPACE,
    ) -> LoggedModel:
        """Begin a logged model, which is pending until it is finished.

        Args:
            experiment: an experiment's id or name.
            name: made up if it is not given; many may share it.
            source_run: the run that made it, which exists.

        Raises:
            NotFound: there is no such experiment. Conflict: it is deleted.
            InvalidInput: the name, a parameter or a tag.
        """
        found = self._experiments.found(call.connection, experiment, workspace)
        if found is None:
            self._experiments.missing(experiment)
        if found.deleted_at is not None:
            raise Conflict(
                f"The experiment {found.name!r} is deleted.", hint="Restore it, or use another."
            )
        experiment_id = found.id
        model_id = "m-" + new_id("logged").partition("_")[2]
        name = _checked_name(name) if name else f"model-{model_id[-8:]}"
        call.connection.execute(
            insert(logged_model_rows).values(
                id=model_id,
                experiment_id=experiment_id,
                name=name,
                model_type=model_type,
                source_run=source_run,
                status=LoggedStatus.PENDING,
                created_at=call.now,
                created_by=call.principal.id,
                updated_at=call.now,
            )
        )
        self.add_params(call, model_id, params or {})
        self.tag(call, model_id, tags or {})
        ref = AssetRef(KIND, model_id)
        attributes = {
            "experiment": experiment_id,
            "type": model_type,
            "workspace": found.workspace,
        }
        self._catalog.record(
            call,
            ref,
            description=f"The logged model {name}",
            owner=call.principal.id,
            attributes=attributes,
        )
        if source_run is not None:
            self._catalog.link(call, AssetRef("run", source_run), ref, Relation.TRAINED)
        call.emit("loggedmodel.created", model=model_id, experiment=experiment_id)
        return self.get(call.connection, model_id)

    def get(
        self,
        connection: Connection,
        model_id: str,
        *,
        deleted: bool = False,
        workspace: str | None = None,
    ) -> LoggedModel:
        """One logged model; raises NotFound, also for a deleted one unless ``deleted``."""
        row = self.row(connection, model_id, deleted=deleted, workspace=workspace)
        return self.assembled(connection, [row])[0]

    def finish(
        self, call: Call, model_id: str, status: LoggedStatus, message: str | None = None
    ) -> LoggedModel:
        """Say that a logged model is whole, or that it failed; the same again does nothing.

        Raises:
            NotFound: there is none. Conflict: it was finished the other way.
            InvalidInput: ``status`` is no end.
        """
        row = self.row(call.connection, model_id)
        if status is LoggedStatus.PENDING:
            raise InvalidInput(
                "A logged model cannot be finished as pending.", hint="Say ready or failed."
            )
        if row.status not in (LoggedStatus.PENDING, status):
            raise Conflict(
                f"The logged model {model_id} is {row.status} already.", hint="Log another one."
            )
        if row.status != status:
            self._set(call, model_id, status=status, status_message=message)
            call.emit("loggedmodel.finished", model=model_id, status=str(status))
        return self.get(call.connection, model_id)

    def add_params(self, call: Call, model_id: str, params: Mapping[str, str]) -> None:
        """Add parameters, which are written once; the same value again is good.

        Raises:
            NotFound: there is no such model. InvalidInput: too long, or no plain text.
            Conflict: a parameter has another value.
        """
        self.row(call.connection, model_id)
        for key, value in params.items():
            _check_text("parameter", key, value, LONGEST_PARAM)
        if not params:
            return
        # Written first and compared then: another call may log the same ones at this moment.
        # Sorted, so that the two do not wait for each other in a circle.
        insert_all_absent(
            call.connection,
            logged_param_rows,
            [{"model_id": model_id, "key": key, "value": params[key]} for key in sorted(params)],
        )
        known = self._texts(call.connection, logged_param_rows, [model_id])[model_id]
        for key, value in params.items():
            if known[key] != value:
                raise Conflict(
                    f"The parameter {key!r} of {model_id} is {known[key][:100]!r} already.",
                    hint="A logged model's parameters are written once.",
                )

    def tag(self, call: Call, model_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, also on a finished model; an older value of the same key is replaced."""
        self.row(call.connection, model_id)
        for key, value in tags.items():
            _check_text("tag", key, value, LONGEST_TAG)
        if not tags:
            return
        of = logged_tag_rows.c.model_id == model_id
        call.connection.execute(delete(logged_tag_rows).where(of, logged_tag_rows.c.key.in_(tags)))
        call.connection.execute(
            insert(logged_tag_rows),
            [{"model_id": model_id, "key": key, "value": value} for key, value in tags.items()],
        )
        self._set(call, model_id)

    def untag(self, call: Call, model_id: str, key: str) -> None:
        """Take a tag away; raises NotFound if there is none."""
        self.row(call.connection, model_id)
        here = (logged_tag_rows.c.model_id == model_id, logged_tag_rows.c.key == key)
        if call.connection.execute(delete(logged_tag_rows).where(*here)).rowcount == 0:
            raise NotFound(
                f"The logged model {model_id} has no tag {key[:100]!r}.", hint="See its tags."
            )
        self._set(call, model_id)

    def delete(self, call: Call, model_id: str) -> None:
        """Take a logged model out of sight; its files stay until they are removed."""
        self.row(call.connection, model_id)
        self._set(call, model_id, deleted_at=call.now)
        call.emit("loggedmodel.deleted", model=model_id)

    def row(
        self,
        connection: Connection,
        model_id: str,
        *,
        deleted: bool = False,
        workspace: str | None = None,
    ) -> Row[Any]:
        """The row of a logged model; raises NotFound, also if it is of another workspace."""
        if not is_writable(model_id):
            raise InvalidInput("The id of a logged model is not plain text.")
        query = select(logged_model_rows).where(logged_model_rows.c.id == model_id)
        if workspace is not None:
            query = query.join(
                experiment_rows, experiment_rows.c.id == logged_model_rows.c.experiment_id
            ).where(experiment_rows.c.workspace == workspace)
        if not deleted:
            query = query.where(logged_model_rows.c.deleted_at.is_(None))
        found = connection.execute(query).first()
        if found is None:
            raise NotFound(
                f"Logged model with ID {model_id[:100]!r} not found.",
                hint="`falaj loggedmodels search` shows those that are there.",
            )
        return found

    def assembled(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[LoggedModel]:
        """Logged models from their rows, with parameters, tags and metrics."""
        ids = [row.id for row in rows]
        params = self._texts(connection, logged_param_rows, ids)
        tags = self._texts(connection, logged_tag_rows, ids)
        metrics: dict[str, list[LoggedMetric]] = {one: [] for one in ids}
        query = select(model_metric_rows).where(model_metric_rows.c.model_id.in_(ids))
        for row in connection.execute(query.order_by(model_metric_rows.c.key)):
            metrics[row.model_id].append(
                LoggedMetric(
                    key=row.key,
                    value=math.nan if row.is_nan else row.value,
                    step=row.step,
                    at=row.at,
                    run=row.run_id,
                    dataset=row.dataset_name or None,
                    dataset_digest=row.dataset_digest or None,
                )
            )
        return [
            LoggedModel(
                **row._mapping,
                params=params[row.id],
                tags=tags[row.id],
                metrics=tuple(metrics[row.id]),
            )
            for row in rows
        ]

    def _set(self, call: Call, model_id: str, **values: Any) -> None:
        call.connection.execute(
            update(logged_model_rows)
            .where(logged_model_rows.c.id == model_id)
            .values(updated_at=call.now, **values)
        )

    @staticmethod
    def _texts(
        connection: Connection, table: Table, ids: Sequence[str]
    ) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {one: {} for one in ids}
        rows = connection.execute(select(table).where(table.c.model_id.in_(ids)))
        for row in rows:
            found[row.model_id][row.key] = row.value
        return found


def _checked_name(name: str) -> str:
    if _FORBIDDEN & set(name) or not is_writable(name) or len(name) > 500:
        raise InvalidInput(
            f"Invalid model name ({name[:100]!r}): it is longer than 500 characters or holds one"
            " of / : . % \" '.",
            hint="Use another name.",
        )
    return name


def _check_text(what: str, key: str, value: str, longest: int) -> None:
    if not key or len(key) > LONGEST_KEY or not is_writable(key):
        raise InvalidInput(
            f"{key[:100]!r} cannot be the name of a {what}.",
            hint=f"Use 1 to {LONGEST_KEY} characters of plain text.",
        )
    if len(value) > longest or not is_writable(value):
        raise InvalidInput(
            f"The {what} {key[:100]!r} is longer than {longest} characters, or no plain text.",
            hint="Keep long texts as an artifact.",
        )

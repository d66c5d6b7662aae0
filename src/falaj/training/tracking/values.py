"""Parameters and tags of runs: how they are written.

Some tags of MLflow's clients say what Falaj keeps in columns: the name of a run and its parent.
They are written to the columns, so that there is one truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.statements import Statement, marks
from falaj.training.tracking.texts import check_key, check_text, plain

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

LONGEST_PARAM = 6_000
LONGEST_TAG = 8_000
LONGEST_RUN_NAME = 200
NAME_TAG, PARENT_TAG = "mlflow.runName", "mlflow.parentRunId"
COLUMN_TAGS = {NAME_TAG: "name", PARENT_TAG: "parent"}
"""Tags that are columns of a run."""

_ADD_PARAM = Statement(
    "INSERT INTO run_params (run_id, key, value) VALUES (?, ?, ?)"
    " ON CONFLICT (run_id, key) DO NOTHING"
)
_SET_TAG = Statement(
    "INSERT INTO run_tags (run_id, key, value) VALUES (?, ?, ?)"
    " ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value"
)
_REMOVE_TAG = Statement("DELETE FROM run_tags WHERE run_id = ? AND key = ?")
_SET_NAME = Statement("UPDATE runs SET name = ? WHERE id = ?")
_SET_PARENT = Statement("UPDATE runs SET parent = ? WHERE id = ?")


class ParameterWritten(Conflict):
    """A parameter of a run has another value already."""

    code = "parameter-written"


def texts_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as texts; raises InvalidInput for one that cannot be kept."""
    texts = {key: value if isinstance(value, str) else repr(value) for key, value in params.items()}
    for key, value in texts.items():
        check_key("parameter", key)
        check_text("parameter", key, value, LONGEST_PARAM)
    return texts


def add_params(
    connection: Connection, run_id: str, params: Mapping[str, Any], *, new: bool = False
) -> dict[str, str]:
    """Write parameters; they are written once, and the same value again is accepted.

    Args:
        new: True if the run has none yet.

    Raises:
        ParameterWritten: one has another value already.
        InvalidInput: one cannot be kept.
    """
    texts = texts_of(params)
    if not texts:
        return texts
    # Written first and compared then: another call may log the same ones at this moment. Sorted,
    # so that the two do not wait for each other in a circle.
    _ADD_PARAM.many(connection, sorted((run_id, key, value) for key, value in texts.items()))
    if new:
        return texts
    query = f"SELECT key, value FROM run_params WHERE run_id = ? AND key IN ({marks(len(texts))})"
    for key, value in Statement(query).all(connection, (run_id, *texts)):
        if texts[key] != value:
            raise ParameterWritten(
                f"The parameter {key!r} of {run_id} is {value[:200]!r} already.",
                hint="A run's parameters are written once; start a new run.",
            )
    return texts


def check_tags(tags: Mapping[str, str]) -> None:
    """Raise InvalidInput for a tag that cannot be kept."""
    for key, value in tags.items():
        check_key("tag", key)
        check_text("tag", key, value, LONGEST_TAG)
    if NAME_TAG in tags:
        checked_name(tags[NAME_TAG])
    if len(tags.get(PARENT_TAG, "")) > 64:
        raise InvalidInput(
            f"{tags[PARENT_TAG][:100]!r} cannot be the id of a run.",
            hint=f"Set the tag {PARENT_TAG} to the id of the parent.",
        )


def set_tags(connection: Connection, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags; an older value of the same key is replaced. Raises InvalidInput."""
    check_tags(tags)
    if NAME_TAG in tags:
        _SET_NAME.run(connection, (tags[NAME_TAG], run_id))
    if PARENT_TAG in tags:
        _SET_PARENT.run(connection, (tags[PARENT_TAG], run_id))
    _SET_TAG.many(
        connection,
        # Sorted: two calls that set the same tags do not wait for each other in a circle.
        sorted((run_id, key, value) for key, value in tags.items() if key not in COLUMN_TAGS),
    )


def remove_tag(connection: Connection, run_id: str, key: str) -> None:
    """Take a tag away.

    Raises:
        NotFound: the run has no such tag.
        InvalidInput: the tag says what every run has.
    """
    if key == NAME_TAG:
        raise InvalidInput("Every run has a name.", hint="Give it another one.")
    if key == PARENT_TAG:
        _SET_PARENT.run(connection, (None, run_id))
    elif not plain(key) or not _REMOVE_TAG.run(connection, (run_id, key)):
        raise NotFound(f"The run {run_id} has no tag {key[:100]!r}.")


def checked_name(name: str) -> str:
    """The name, if a run can have it; raises InvalidInput."""
    if not name or len(name) > LONGEST_RUN_NAME or not plain(name):
        raise InvalidInput(
            f"{name[:100]!r} cannot be the name of a run.",
            hint=f"Use 1 to {LONGEST_RUN_NAME} characters of plain text.",
        )
    return name

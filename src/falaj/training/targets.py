"""What a model predicts: a label of 0 or 1, a number, or one of several classes.

Labels are float64 throughout: 0 or 1; the number; the place of the class. Scores are one
number a row (the probability of 1, the predicted number), or of classes one row of
probabilities, in the order of the classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.kernel.errors import InvalidInput
from falaj.training.encoding import as_labels, numbers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

Task = Literal["binary", "regression", "classes"]
"""What labels are: 0 and 1; numbers; or one of several classes."""
ClassName = Annotated[str, Field(min_length=1, max_length=100)]
MOST_CLASSES = 100
RESERVED = frozenset(
    {
        "id", "row", "model", "variant", "features", "contributions", "anomaly",
        "prediction_id", "anomaly_score", "anomalous", "scoring", "row_number", "error",
        "version", "release", "predicted_for", "request_id",
    }
)  # fmt: skip
"""What stands beside the probabilities in an answer or a table of them, so that no class may be
called so, in capitals or not."""
SCORE = "score"


class Target(BaseModel):
    """The task of a label, and its classes where it has some."""

    model_config = ConfigDict(frozen=True)

    task: Task = "binary"
    classes: tuple[ClassName, ...] = ()
    """Of the task ``classes``: the words of the label, in the order of the probabilities."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        check_classes(self.task, self.classes)
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what a model gives for a row."""
        return self.classes or (SCORE,)

    def labels(self, column: pa.ChunkedArray, name: str) -> npt.NDArray[np.float64]:
        """A label column as float64, missing ones as NaN.

        Raises:
            InvalidInput: it holds something that is not of the task.
        """
        if self.task == "binary":
            return as_labels(column, name)
        return self._places(column, name) if self.classes else _finite(numbers(column, name), name)

    def _places(self, column: pa.ChunkedArray, name: str) -> npt.NDArray[np.float64]:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            words = column.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise InvalidInput(
                f"The label {name!r} has the type {column.type}, of which there are no classes.",
                hint="Give words or whole numbers; null where the label is not known.",
            ) from None
        place = pc.index_in(words, value_set=pa.array(self.classes, pa.string()))
        strange = pc.and_(pc.is_valid(words), pc.is_null(place))
        if pc.any(strange).as_py():
            raise InvalidInput(
                f"The label {name!r} holds {words.filter(strange)[0].as_py()!r}, which is none of "
                f"its classes.",
                hint=f"They are: {', '.join(self.classes)}. Name every class in the spec.",
            )
        found: Any = pc.fill_null(place.cast(pa.float64()), float("nan")).to_numpy()
        return np.asarray(found, dtype=np.float64)


def check_classes(task: Task, classes: tuple[str, ...]) -> None:
    """Raise ValueError unless a task has the classes that it needs, and no others."""
    if task != "classes":
        if classes:
            raise ValueError(f"`classes` are of the task 'classes', not of {task!r}")
        return
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise ValueError(f"the task 'classes' needs 2 to {MOST_CLASSES} `classes`, all by name")
    if len(set(classes)) < len(classes):
        raise ValueError("a class is named twice")
    taken = [one for one in classes if one.lower() in RESERVED]
    if taken:
        raise ValueError(f"no class can be called {taken[0]!r}: answers have a part of that name")
    if len({one.lower() for one in classes}) < len(classes):
        raise ValueError("two classes differ in capitals alone: no table can have both columns")


BINARY = Target()


def _finite(values: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
    import numpy as np

    if np.isinf(values).any():
        raise InvalidInput(
            f"The label {name!r} holds an infinite number.",
            hint="Give finite numbers; null where the label is not known.",
        )
    return values

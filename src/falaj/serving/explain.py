"""What a request wants to be told beside its scores, and the contributions of its inputs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from falaj.kernel.errors import FalajError
from falaj.serving.errors import BadRequest, ModelFailed, NotExplained
from falaj.serving.model import ServableModel
from falaj.serving.ports import Explains

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from falaj.serving.ports import Explainer, Runtime


class Explain:
    """What to tell of each prediction, as bits of a number; 0 is nothing.

    Plain numbers: an ``&`` with a member of an enum costs more than decoding a row.
    """

    FEATURES = 1
    """The values that it was made of, their status and event times."""
    CONTRIBUTIONS = 2
    """How much each input moved the raw score (TreeSHAP); costs far more than the score."""
    ANOMALY = 4
    """How unlike the training rows its inputs are, by the isolation forest of the bundle."""


_WORDS = {
    "features": Explain.FEATURES,
    "contributions": Explain.CONTRIBUTIONS,
    "anomaly": Explain.ANOMALY,
}


def asked(query: bytes) -> int:
    """The ``explain=…`` of a query, as flags; several words with commas between them.

    Raises:
        BadRequest: a word is unknown.
    """
    if b"explain=" not in query:
        return 0
    told = 0
    for value in parse_qs(query.decode("latin-1"), max_num_fields=100).get("explain", []):
        for word in value.split(","):
            if word not in _WORDS:
                raise BadRequest(
                    f"There is no explanation {word[:40]!r}.",
                    hint=f"Ask for {' or '.join(_WORDS)}, or several with commas.",
                )
            told |= _WORDS[word]
    return told


class Explanation:
    """The contributions of one model's inputs; its explainer is made when first asked for.

    Safe on many threads. The explainer of a model that was converted is made from the model
    that it was converted from.
    """

    def __init__(self, explains: Explains, model: ServableModel) -> None:
        self._explains = explains
        self._model = model
        self._lock = threading.Lock()
        self._explainer: Explainer | None = None

    @classmethod
    def of(cls, runtimes: Sequence[Runtime], model: ServableModel) -> Explanation | None:
        """The explanation of a model; None if no runtime can explain it, or it has several
        outputs."""
        if len(model.outputs) != 1:
            return None
        source = model
        if model.native:
            source = ServableModel(model.native_format, model.native, model.inputs, model.outputs)
        for runtime in runtimes:
            if source.format in runtime.formats and isinstance(runtime, Explains):
                return cls(runtime, source)
        return None

    def told(self, rows: NDArray[np.float32]) -> list[dict[str, Any]]:
        """For each row float32 [n, inputs] the base value, each input's contribution, and
        their sum: the raw score (for a classifier the log odds, else the number).

        Raises:
            ModelFailed: the contributions of this input cannot be told.
        """
        try:
            with self._lock:
                if self._explainer is None:
                    self._explainer = self._explains.explainer(self._model)
            found = self._explainer.contributions(rows)
        except FalajError:
            raise
        except Exception as error:
            raise ModelFailed(
                f"The contributions failed: {type(error).__name__}: {str(error)[:200]}.",
                hint="Ask without explain=contributions.",
            ) from error
        names = self._model.inputs
        return [
            {
                "base": row[-1],
                "inputs": dict(zip(names, row[:-1], strict=True)),
                "raw_score": sum(row),
            }
            for row in found.tolist()
        ]


def no_forest(label: str) -> NotExplained:
    """That a model was trained without an isolation forest."""
    return NotExplained(
        f"{label} was trained without an isolation forest, so no anomaly can be told.",
        hint="Ask without explain=anomaly, or train it with `isolation`.",
    )


def not_explained(label: str) -> NotExplained:
    """That a model has no contributions to tell."""
    return NotExplained(
        f"{label} has no contributions to tell: only single tree models of one output have.",
        hint="Ask without explain=contributions; explain=features tells what it read.",
    )

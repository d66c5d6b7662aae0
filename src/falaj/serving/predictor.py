"""Predictions inside this process, through the same plans as the inference workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from falaj.kernel.errors import FalajError
from falaj.serving.errors import BadRequest
from falaj.serving.model import Answer
from falaj.serving.standingin import StandInFailed

if TYPE_CHECKING:
    from falaj.serving.plans import Plans
    from falaj.serving.predictionlog import PredictionLog


class Predictor:
    """Answers as a worker would; one request at a time. Every answer is logged durably.

    Args:
        plans: of this process.
        log: takes what was predicted.
    """

    def __init__(self, plans: Plans, log: PredictionLog) -> None:
        self._plans = plans
        self._log = log
        self._lock = threading.Lock()

    def predict(
        self,
        endpoint: str,
        inputs: Sequence[Mapping[str, Any]],
        *,
        caller: str,
        request_id: str | None = None,
        at: datetime | None = None,
        explain: int = 0,
    ) -> Answer:
        """Score input rows; returns when they are answered and logged.

        Raises:
            NotFound: no such endpoint serves.
            BadRequest, BodyTooLarge, FeaturesMissing: the rows are not what it takes.
            Unavailable, LimitExceeded: the log cannot be written.
        """
        started = time.perf_counter()
        body = {"inputs": list(inputs), "request_id": request_id, "at": at}
        try:
            encoded = msgspec.json.encode({k: v for k, v in body.items() if v is not None})
        except (TypeError, msgspec.MsgspecError, OverflowError) as error:
            raise BadRequest(
                f"The inputs are not JSON: {error}.", hint="Send plain values."
            ) from None
        with self._lock:
            if self._plans.behind:
                self._plans.catch_up()
            plan = self._plans.named(endpoint)
            request = plan.parse(encoded, caller=caller, started=started, explain=explain)
            try:
                answers, parts = plan.score([request])
            except StandInFailed as error:  # nothing is counted here
                raise error.cause from None
        (answer,) = answers
        if isinstance(answer, FalajError):
            raise answer
        for part in parts:
            self._log.write([part])
        return Answer.model_validate_json(answer if isinstance(answer, bytes) else answer.body)

"""What can be wrong with a request for a prediction, beyond the kernel's own errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.errors import Conflict, Corrupt, InvalidInput, LimitExceeded, Unavailable

if TYPE_CHECKING:
    from falaj.serving.predictions import Failed


class BadRequest(InvalidInput):
    """The body is not what the endpoint takes."""

    code = "bad-request"


class BodyTooLarge(LimitExceeded):
    """The body has more bytes, or more rows, than the endpoint takes."""

    code = "body-too-large"


class UnsupportedMedia(InvalidInput):
    """The content type is none that the endpoint reads."""

    code = "unsupported-media"


class MethodNotAllowed(InvalidInput):
    """The path takes another method."""

    code = "method-not-allowed"


class FeaturesMissing(InvalidInput):
    """Features without a fresh value, on an endpoint that refuses to guess."""

    code = "features-missing"


class RolloutRuns(Conflict):
    """The endpoint serves the release of a rollout, which only its rollout changes."""

    code = "rollout-runs"


class NoRolloutRuns(Conflict):
    """The endpoint serves no release of a rollout."""

    code = "no-rollout-runs"


class NotExplained(InvalidInput):
    """Contributions are asked of a model that is no single tree model, or anomalies of one
    without an isolation forest."""

    code = "not-explained"


class Overloaded(Unavailable):
    """The worker's queue for this endpoint is full."""

    code = "overloaded"
    shown = True


class Asleep(Unavailable):
    """The endpoint's model is not in memory; a prediction wakes it."""

    code = "asleep"
    shown = True


class DeadlineExceeded(Unavailable):
    """The request waited or took longer than the endpoint's deadline."""

    code = "deadline-exceeded"
    shown = True


class NotReady(Unavailable):
    """The worker should get no requests now; ``reasons`` are words for programs."""

    code = "not-ready"
    shown = True


class SlowClient(InvalidInput):
    """The client did not send its body within the deadline."""

    code = "slow-client"


class ModelFailed(Unavailable):
    """The model, or an on-demand feature, raised on this input."""

    code = "model-failed"
    retryable = False
    shown = True
    variant: str = ""
    """Of the release; empty where none has failed by itself."""
    failed: Failed | None = None
    """Where the champion failed when it stood in for others: see ``predictions.Scored.failed``."""


class ScoringFailed(Unavailable):
    """A fault inside the platform; the worker goes on."""

    code = "scoring-failed"
    retryable = False
    shown = True


class ReleaseRefused(Conflict):
    """A worker can not load the release; nothing was switched."""

    code = "release-refused"


class ReleaseNotLoaded(Unavailable):
    """Workers have not loaded the release in time; nothing was switched."""

    code = "release-not-loaded"
    shown = True


class RoutingDamaged(Corrupt):
    """The routing table holds a document that is none."""

    code = "routing-damaged"

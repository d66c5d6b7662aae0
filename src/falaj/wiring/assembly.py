"""Builds a platform from its settings, in the order of the flow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.call import Call, Caller
from falaj.kernel.calls import Calls
from falaj.kernel.clock import Clock, SystemClock
from falaj.kernel.database import Database
from falaj.kernel.door import Backend, Services
from falaj.kernel.errors import FalajError
from falaj.kernel.jobs import Handler, Jobs, Worker
from falaj.kernel.outbox import Outbox, Subscription
from falaj.kernel.ports import Resource
from falaj.kernel.settings import Settings
from falaj.kernel.telemetry import Telemetry, logger
from falaj.operations.changes import Changes
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_checkpoints import Checkpointer, Checkpoints
from falaj.trust.audit_verification import Verifier
from falaj.trust.authentication import Authentication
from falaj.trust.certificates import CertificateAuthority, ServerCertificate
from falaj.trust.epochs import Epochs
from falaj.trust.factors import Factors
from falaj.trust.policy import CedarPolicy
from falaj.trust.tokens import Tokens
from falaj.wiring import stores
from falaj.wiring.services import service_classes

HOUSEKEEPING_SECONDS = 1.0


class TokenVerifier:
    """Turns an access token into a caller, at the platform's own time."""

    def __init__(self, tokens: Tokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    def verify(self, token: str) -> Caller:
        """The caller; raises InvalidToken."""
        return self._tokens.verify(token, self._clock.now())

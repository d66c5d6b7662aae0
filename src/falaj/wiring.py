"""The one place where adapters meet ports, and rooms meet each other.

Everything is built here by constructors, from the settings, in the order of the flow.
Nothing else in the package imports an adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from falaj.kernel.actions import Service
from falaj.kernel.call import Caller
from falaj.kernel.clock import Clock

if TYPE_CHECKING:
    from falaj.trust.tokens import Tokens

MIGRATIONS = Path(__file__).parent / "migrations"
AUTO_CHECKPOINT_SECONDS = 1.0


def service_classes() -> dict[str, type[Service]]:
    """Every service class of the platform by its name, in the order of the flow."""
    from falaj.catalog.service import AssetService, DefinitionService
    from falaj.features.service import FeatureService
    from falaj.ingest.service import SourceService
    from falaj.kernel.jobs_service import JobsService
    from falaj.lake.service import TableService
    from falaj.models.service import ModelService
    from falaj.monitoring.service import MonitorService
    from falaj.operations.service import AlertService, ChangeService, IncidentService
    from falaj.serving.service import EndpointService
    from falaj.training.service import RunService, TrainingService
    from falaj.trust.audit_service import Audit
    from falaj.trust.keys_service import Keys
    from falaj.trust.service import AccountService

    listed: list[type[Service]] = [
        SourceService,
        TableService,
        DefinitionService,
        FeatureService,
        TrainingService,
        RunService,
        ModelService,
        EndpointService,
        MonitorService,
        ChangeService,
        AlertService,
        IncidentService,
        AssetService,
        AccountService,
        Keys,
        Audit,
        JobsService,
    ]
    return {service.name: service for service in listed}


class TokenVerifier:
    """Turns an access token into a caller, at the platform's own time."""

    def __init__(self, tokens: Tokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    def verify(self, token: str) -> Caller:
        """The caller; raises InvalidToken."""
        return self._tokens.verify(token, self._clock.now())

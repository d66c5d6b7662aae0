"""The services of a platform, each with what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.catalog.service import AssetService, DefinitionService
from falaj.features.parity import Parity
from falaj.features.service import Features
from falaj.ingest.service import SourceService
from falaj.kernel.actions import Service
from falaj.kernel.jobs_service import JobsService
from falaj.lake.service import TableService
from falaj.models.service import ModelService
from falaj.monitoring.service import MonitorService
from falaj.operations.service import AlertService, ChangeService, IncidentService
from falaj.serving.predictor import Predictor
from falaj.serving.service import EndpointService
from falaj.training.service import RunService, TrainingService
from falaj.trust.audit_service import Audit
from falaj.trust.keys_service import Keys
from falaj.trust.service import AccountsService
from falaj.wiring.facts import facts

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def services(made: Premises) -> list[Service]:
    """One of each service; the classes are those of ``service_classes``."""
    visible = made.visible
    catalog = made.catalog
    authentication = made.authentication
    return [
        SourceService(made.jobs, made.loading),
        TableService(made.lake, catalog, visible),
        DefinitionService(made.definitions, catalog, visible),
        Features(made.features, Parity(made.features), made.jobs, made.visible_ref),
        TrainingService(made.training_sets, made.jobs, catalog, visible, made.may),
        RunService(made.runs, catalog, visible),
        ModelService(
            registry=made.registry,
            promotions=made.promotions,
            bundles=made.bundles,
            runs=made.runs,
            jobs=made.jobs,
            catalog=catalog,
            visible=visible,
        ),
        *_serving(made),
        ChangeService(made.changes, catalog, visible),
        AlertService(made.alerts, catalog, visible),
        IncidentService(made.incidents, catalog, visible),
        AssetService(catalog, visible),
        AccountsService(authentication.accounts, authentication.sessions, authentication.enrolment),
        Keys(made.keys),
        _audit(made),
        JobsService(made.jobs, made.may_handle),
    ]


def _audit(made: Premises) -> Audit:
    return Audit(made.audit, made.checkpoints, made.audit_verifier)


def _serving(made: Premises) -> list[Service]:
    from falaj.serving.bundled import BundledModels
    from falaj.serving.tracing import Tracing

    tracing = Tracing(made.lake, made.catalog, BundledModels(made.bundles), facts(made))
    return [
        EndpointService(
            made.releases,
            made.routing,
            Predictor(made.plans, made.prediction_log),
            tracing,
            made.meters,
            made.may_on,
        ),
        MonitorService(made.monitors, made.may_on),
    ]

"""Every service class of the platform; what the interfaces are made from."""

from __future__ import annotations

from falaj.kernel.actions import Service


def service_classes() -> dict[str, type[Service]]:
    """The service classes by name, in the order of the flow."""
    from falaj.catalog.service import AssetService, DefinitionService
    from falaj.features.service import Features
    from falaj.kernel.jobs_service import JobsService
    from falaj.lake.erasure_service import PrivacyService
    from falaj.lake.service import TableService
    from falaj.models.ci_service import CiService
    from falaj.models.service import ModelService
    from falaj.operations.policy_service import PolicyService
    from falaj.serving.service import EndpointService
    from falaj.training.costs.service import CostService
    from falaj.training.loggedmodel_service import LoggedModelService
    from falaj.training.pipelines.service import PipelineService
    from falaj.training.service import RunService, TrainingService
    from falaj.training.tracking.service import ExperimentService
    from falaj.training.tuning.service import StudyService
    from falaj.trust.audit_service import Audit
    from falaj.trust.certificates_service import CertificateService
    from falaj.trust.keys_service import Keys
    from falaj.trust.provisioning_service import ProvisioningService
    from falaj.trust.service import AccountsService

    listed: list[type[Service]] = [
        *_bringing(),
        TableService,
        DefinitionService,
        Features,
        TrainingService,
        RunService,
        LoggedModelService,
        ExperimentService,
        StudyService,
        CostService,
        PipelineService,
        ModelService,
        EndpointService,
        *_watching(),
        *_of_operations(),
        AssetService,
        PrivacyService,
        AccountsService,
        CertificateService,
        ProvisioningService,
        PolicyService,
        CiService,
        Keys,
        Audit,
        JobsService,
    ]
    return {service.name: service for service in listed}


def _bringing() -> list[type[Service]]:
    """Those that bring rows in, and judge them."""
    from falaj.ingest.contract_service import ContractService
    from falaj.ingest.service import SourceService

    return [SourceService, ContractService]


def _watching() -> list[type[Service]]:
    """Those that watch over what serves, and change it."""
    from falaj.monitoring.retraining_service import RetrainingService
    from falaj.monitoring.service import MonitorService
    from falaj.rollouts.planning_service import PlanningService
    from falaj.rollouts.service import RolloutService

    return [MonitorService, RetrainingService, PlanningService, RolloutService]


def _of_operations() -> list[type[Service]]:
    from falaj.operations.alerting_service import ReceiverService, SilenceService
    from falaj.operations.incident_service import IncidentService, ProblemService
    from falaj.operations.service import AlertService, ChangeService
    from falaj.operations.service_level_service import ServiceLevelService
    from falaj.operations.webhooks_service import WebhookService

    return [
        ChangeService,
        AlertService,
        IncidentService,
        WebhookService,
        SilenceService,
        ProblemService,
        ServiceLevelService,
        ReceiverService,
    ]

"""The services of a platform, each with what it needs, made when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from falaj.catalog.service import AssetService, DefinitionService
from falaj.features.service import Features
from falaj.ingest.contract_service import ContractService
from falaj.ingest.service import SourceService
from falaj.kernel.actions import Service
from falaj.kernel.jobs_service import JobsService
from falaj.lake.erasure_service import PrivacyService
from falaj.lake.service import TableService
from falaj.models.ci_service import CiService
from falaj.models.service import ModelService
from falaj.monitoring.retraining_service import RetrainingService
from falaj.monitoring.service import MonitorService
from falaj.operations.alerting_service import ReceiverService, SilenceService
from falaj.operations.incident_service import IncidentService, ProblemService
from falaj.operations.policy_service import PolicyService
from falaj.operations.service import AlertService, ChangeService
from falaj.operations.service_level_service import ServiceLevelService
from falaj.operations.webhooks_service import WebhookService
from falaj.rollouts.planning_service import PlanningService
from falaj.rollouts.service import RolloutService
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
from falaj.trust.ownfactors import OwnFactors
from falaj.trust.provisioning_service import ProvisioningService
from falaj.trust.service import AccountsService
from falaj.wiring.anomalyparts import contract_service, source_service
from falaj.wiring.artifactparts import logged_models
from falaj.wiring.computeparts import cost_service, run_queue
from falaj.wiring.facts import facts
from falaj.wiring.operationparts import (
    problem_service,
    receiver_service,
    service_level_service,
    silence_service,
)
from falaj.wiring.policyparts import policy_service
from falaj.wiring.privacyparts import privacy_service
from falaj.wiring.provisioningparts import provisioning_service
from falaj.wiring.readingparts import DataPlaneSight, feature_sight, guarded_lake
from falaj.wiring.residencyparts import residency
from falaj.wiring.retrainingparts import leakage_checks, monitor_schedules, retraining_service
from falaj.wiring.rolloutparts import RolloutParts
from falaj.wiring.trackingparts import experiment_service, run_service
from falaj.wiring.tuningparts import study_service
from falaj.wiring.watching import parity_checks
from falaj.wiring.webhookparts import webhooks

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def makers(made: Premises) -> dict[type[Service], Callable[[], Service]]:
    """What makes each service; the classes are those of ``service_classes``, in their order.

    A service is made when one of its actions is called first: a control plane at rest
    holds neither the lake's engine nor a model runtime.
    """
    visible = made.visible
    return {
        SourceService: lambda: source_service(made),
        ContractService: lambda: contract_service(made),
        TableService: lambda: TableService(
            made.lake, guarded_lake(made), made.catalog, visible, made.may
        ),
        DefinitionService: lambda: DefinitionService(made.definitions, made.catalog, visible),
        Features: lambda: _features(made),
        TrainingService: lambda: TrainingService(
            made.training_sets,
            made.jobs,
            made.catalog,
            visible,
            made.may,
            guarded_lake(made),
            residency(made).check,
            run_queue(made),
        ),
        LoggedModelService: lambda: logged_models(made),
        RunService: lambda: run_service(made),
        ExperimentService: lambda: experiment_service(made),
        StudyService: lambda: study_service(made),
        CostService: lambda: cost_service(made),
        PipelineService: made.pipelines.service,
        ModelService: lambda: _models(made),
        EndpointService: lambda: _endpoints(made),
        MonitorService: lambda: MonitorService(
            made.monitors,
            made.may_on,
            guarded_lake(made),
            monitor_schedules(made),
            leakage_checks(made),
        ),
        PlanningService: PlanningService,
        RetrainingService: lambda: retraining_service(made),
        RolloutService: lambda: RolloutParts(made).service(),
        ChangeService: lambda: ChangeService(made.changes, made.catalog, visible),
        AlertService: lambda: AlertService(made.alerts, made.catalog, visible),
        IncidentService: lambda: IncidentService(made.incidents, made.catalog, visible),
        WebhookService: lambda: WebhookService(webhooks(made)),
        SilenceService: lambda: silence_service(made),
        ProblemService: lambda: problem_service(made),
        ServiceLevelService: lambda: service_level_service(made),
        ReceiverService: lambda: receiver_service(made),
        AssetService: lambda: AssetService(made.catalog, visible),
        PrivacyService: lambda: privacy_service(made),
        AccountsService: lambda: _accounts(made),
        CertificateService: lambda: CertificateService(made.certificates.of_programs),
        ProvisioningService: lambda: provisioning_service(made),
        PolicyService: lambda: policy_service(made),
        CiService: lambda: CiService(made.authentication.accounts, made.registry, made.promotions),
        Keys: lambda: Keys(made.keys, made.jobs, made.audit, made.key_uses),
        Audit: lambda: Audit(made.audit, made.checkpoints, made.audit_verifier),
        JobsService: lambda: JobsService(made.jobs, made.may_handle),
    }


def _features(made: Premises) -> Features:
    from falaj.features.versions import Retirement
    from falaj.serving.read_views import ReadViews

    return Features(
        made.features,
        parity_checks(made),
        made.jobs,
        made.visible_ref,
        feature_sight(made),
        Retirement(made.definitions, ReadViews(made.serving.releases)),
    )


def _models(made: Premises) -> ModelService:
    from falaj.models.brought import Bringing
    from falaj.models.cards import Cards
    from falaj.models.gating.asking import GateAsking
    from falaj.models.revocations import Revocations
    from falaj.wiring.registryparts import adopting, registry_parts
    from falaj.wiring.supplyparts import Withdrawn, advisories

    return ModelService(
        parts=registry_parts(made),
        promotions=made.promotions,
        bundles=made.bundles,
        runs=made.runs,
        jobs=made.jobs,
        catalog=made.catalog,
        visible=made.visible,
        bringing=Bringing(
            made.data_files,
            made.registry,
            made.training_sets,
            made.jobs,
            pickles=made.settings.supply_chain.pickles,
        ),
        adopting=adopting(made),
        revocations=Revocations(made.bundles, Withdrawn(made)),
        gates=GateAsking(
            made.registry, made.training_sets, guarded_lake(made), made.catalog, made.jobs
        ),
        cards=Cards(made.registry, made.bundles, made.training_sets),
        advisories=advisories(made),
    )


def _endpoints(made: Premises) -> EndpointService:
    from falaj.serving.batchrequests import Scorings
    from falaj.serving.bundled import BundledModels
    from falaj.serving.predictor import Predictor
    from falaj.serving.tracing import Tracing

    return EndpointService(
        made.serving.releases,
        made.serving.routing,
        Predictor(made.serving.plans, made.serving.prediction_log),
        Tracing(made.lake, made.catalog, BundledModels(made.bundles), facts(made)),
        made.serving.meters,
        made.may_on,
        Scorings(
            made.serving.releases,
            made.lake,
            lambda: made.data_files,
            made.catalog,
            made.jobs,
            made.may_on,
            guarded_lake(made),
            residency(made).check,
        ),
        guarded_lake(made),
        DataPlaneSight(made).explained,
    )


def _accounts(made: Premises) -> AccountsService:
    parts = made.authentication
    factors = OwnFactors(parts.exchanges)
    return AccountsService(parts.accounts, parts.sessions, parts.enrolment, factors)

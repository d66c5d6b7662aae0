"""What a user declares: sources, contracts, features, models, endpoints, monitors.

>>> from falaj.declare import Entity, Feature, FeatureView   # doctest: +SKIP

The objects stand at module level in the folder ``definitions``; ``falaj plan`` shows what
they would change and ``falaj apply`` changes it.
"""

from __future__ import annotations

from falaj.catalog.model import Classification
from falaj.catalog.policies import Policy
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Filter,
    OnDemandFeatures,
)
from falaj.features.sources import ForeignTable, Stream
from falaj.features.types import DType
from falaj.ingest.checks import (
    Between,
    Distinct,
    Expression,
    ForeignKey,
    Freshness,
    HasColumns,
    InSet,
    Length,
    Matches,
    NotInSet,
    NotNull,
    RowCount,
    Severity,
    Statistic,
    Unique,
    Usual,
)
from falaj.ingest.model import Contract, Format, Mode, Source
from falaj.lake.masks import How, Mask
from falaj.lake.readrules import ReadRule, Whom
from falaj.models.gating.rules import (
    CalibrationRule,
    CardRule,
    ChampionRule,
    ExplainabilityRule,
    FairnessRule,
    InputsRule,
    LatencyRule,
    LeakageRule,
    MemoryRule,
    MetricRule,
    ParentRule,
    RobustnessRule,
    SliceRule,
    SupplyChainRule,
)
from falaj.models.model import ModelPolicy
from falaj.monitoring.anomalywords import AnomalyWatch, MetricSeries
from falaj.monitoring.driftwords import (
    Detector,
    DriftLimits,
    DriftReference,
    DriftWatch,
    QualityLimits,
    WatchedSeries,
)
from falaj.monitoring.leakagewords import LeakageLimits
from falaj.monitoring.model import Labels, Monitor, PerformanceLimits
from falaj.monitoring.performancewords import (
    CalibrationLimits,
    FairnessLimits,
    FigureLimit,
    Quality,
    Slice,
)
from falaj.monitoring.retrainingwords import (
    NewestRows,
    OnFinding,
    OnLabels,
    OnSchedule,
    Retraining,
    Standard,
)
from falaj.monitoring.schedulewords import CheckSchedule
from falaj.operations.budgets import BurnAlert, ServiceLevel
from falaj.operations.routing import (
    AlertReceiver,
    AlertRoute,
    Escalation,
    InhibitRule,
    Matcher,
)
from falaj.operations.standard import Bound, ChangeTemplate
from falaj.rollouts.model import (
    Challenger,
    Guardrail,
    Metric,
    MetricKind,
    Rollout,
    RolloutKind,
    Stage,
    Success,
)
from falaj.serving.model import Combination, Composition, Endpoint, Limits, Member, RequestField
from falaj.training.pipelines.model import (
    Cron,
    FromParameter,
    FromStep,
    FromTable,
    NewData,
    OnEvent,
    Pipeline,
    ToTable,
    step,
)

__all__ = [
    "Aggregate",
    "AlertReceiver",
    "AlertRoute",
    "AnomalyWatch",
    "Between",
    "Bound",
    "BurnAlert",
    "CalibrationLimits",
    "CalibrationRule",
    "CardRule",
    "Challenger",
    "ChampionRule",
    "ChangeTemplate",
    "CheckSchedule",
    "Classification",
    "Combination",
    "Composition",
    "Contract",
    "Cron",
    "DType",
    "Detector",
    "Distinct",
    "DriftLimits",
    "DriftReference",
    "DriftWatch",
    "Endpoint",
    "Entity",
    "Escalation",
    "ExplainabilityRule",
    "Expression",
    "FairnessLimits",
    "FairnessRule",
    "Feature",
    "FeatureService",
    "FeatureView",
    "FigureLimit",
    "Filter",
    "ForeignKey",
    "ForeignTable",
    "Format",
    "Freshness",
    "FromParameter",
    "FromStep",
    "FromTable",
    "Guardrail",
    "HasColumns",
    "How",
    "InSet",
    "InhibitRule",
    "InputsRule",
    "Labels",
    "LatencyRule",
    "LeakageLimits",
    "LeakageRule",
    "Length",
    "Limits",
    "Mask",
    "Matcher",
    "Matches",
    "Member",
    "MemoryRule",
    "Metric",
    "MetricKind",
    "MetricRule",
    "MetricSeries",
    "Mode",
    "ModelPolicy",
    "Monitor",
    "NewData",
    "NewestRows",
    "NotInSet",
    "NotNull",
    "OnDemandFeatures",
    "OnEvent",
    "OnFinding",
    "OnLabels",
    "OnSchedule",
    "ParentRule",
    "PerformanceLimits",
    "Pipeline",
    "Policy",
    "Quality",
    "QualityLimits",
    "ReadRule",
    "RequestField",
    "Retraining",
    "RobustnessRule",
    "Rollout",
    "RolloutKind",
    "RowCount",
    "ServiceLevel",
    "Severity",
    "Slice",
    "SliceRule",
    "Source",
    "Stage",
    "Standard",
    "Statistic",
    "Stream",
    "Success",
    "SupplyChainRule",
    "ToTable",
    "Unique",
    "Usual",
    "WatchedSeries",
    "Whom",
    "step",
]

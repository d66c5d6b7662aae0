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
from falaj.ingest.model import (
    Between,
    Contract,
    Expression,
    ForeignKey,
    Format,
    Freshness,
    InSet,
    Matches,
    Mode,
    NotNull,
    RowCount,
    Severity,
    Source,
    Unique,
)
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
from falaj.monitoring.driftwords import (
    Detector,
    DriftLimits,
    DriftReference,
    DriftWatch,
    QualityLimits,
    WatchedSeries,
)
from falaj.monitoring.model import Labels, Monitor, PerformanceLimits
from falaj.serving.model import Combination, Composition, Endpoint, Limits, Member
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
    "Between",
    "CalibrationRule",
    "CardRule",
    "ChampionRule",
    "Classification",
    "Combination",
    "Composition",
    "Contract",
    "Cron",
    "DType",
    "Detector",
    "DriftLimits",
    "DriftReference",
    "DriftWatch",
    "Endpoint",
    "Entity",
    "ExplainabilityRule",
    "Expression",
    "FairnessRule",
    "Feature",
    "FeatureService",
    "FeatureView",
    "Filter",
    "ForeignKey",
    "ForeignTable",
    "Format",
    "Freshness",
    "FromParameter",
    "FromStep",
    "FromTable",
    "How",
    "InSet",
    "InputsRule",
    "Labels",
    "LatencyRule",
    "LeakageRule",
    "Limits",
    "Mask",
    "Matches",
    "Member",
    "MemoryRule",
    "MetricRule",
    "Mode",
    "ModelPolicy",
    "Monitor",
    "NewData",
    "NotNull",
    "OnDemandFeatures",
    "OnEvent",
    "ParentRule",
    "PerformanceLimits",
    "Pipeline",
    "Policy",
    "QualityLimits",
    "ReadRule",
    "RobustnessRule",
    "RowCount",
    "Severity",
    "SliceRule",
    "Source",
    "Stream",
    "SupplyChainRule",
    "ToTable",
    "Unique",
    "WatchedSeries",
    "Whom",
    "step",
]

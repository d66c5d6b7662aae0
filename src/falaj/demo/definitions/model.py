"""The model, what each of its versions must keep, where it answers, and what is watched."""

from datetime import timedelta

from falaj.declare import (
    CardRule,
    ChampionRule,
    DriftLimits,
    DriftWatch,
    Endpoint,
    ExplainabilityRule,
    FairnessRule,
    InputsRule,
    Labels,
    LatencyRule,
    LeakageRule,
    MemoryRule,
    MetricRule,
    ModelPolicy,
    Monitor,
    PerformanceLimits,
    RobustnessRule,
    SliceRule,
)
from falaj.serving.model import FieldType, RequestField

flight_delay = ModelPolicy(
    name="flight-delay",
    description="Will a flight leave New York more than 15 minutes late?",
    feature_service="delay_features",
    label="late",
    intended_use="Telling passengers and crews two hours ahead that a departure is likely late.",
    limitations="Flights of 2013 from EWR, JFK and LGA. It says nothing of flights that are "
    "cancelled, and takes the aircraft as assigned two hours ahead.",
    floors=(MetricRule(metric="auc", limit=0.75),),
    champion=ChampionRule(metric="auc", require="not_worse", margin=0.005),
    slices=(SliceRule(columns=("carrier", "origin"), limit=0.65, least_rows=500),),
    calibration=0.05,
    latency=LatencyRule(p50_ms=1.0, p99_ms=10.0),
    largest_megabytes=20,
    leakage=LeakageRule(model_auc=0.9, feature_auc=0.85),
    # There are no people in these rows: the airports stand in for groups of them.
    fairness=(
        FairnessRule(column="origin", threshold=0.4, demographic_parity=0.2, equalised_odds=0.2),
    ),
    robustness=RobustnessRule(threshold=0.4),
    memory=MemoryRule(largest_megabytes=500),
    explainability=ExplainabilityRule(dominant=0.6),
    card=CardRule(),
    inputs=InputsRule(missing=0.2),
)

endpoint = Endpoint(
    name="flight-delay",
    model="flight-delay",
    description="The chance that a flight will be late, asked two hours before it should leave.",
    feature_service="delay_features",
    # Whom or what the answer is for: the flight itself, or one of its passengers.
    unit="advised",
    fields=(RequestField(name="advised", type=FieldType.STRING, required=False, nullable=True),),
)

monitor = Monitor(
    name="flight-delay-weekly",
    endpoint="flight-delay",
    window=timedelta(days=7),
    drift=DriftLimits(),
    labels=Labels(
        table="departures",
        label="late",
        on="request_id",
        key="flight_id",
        recorded_at="departed_at",
    ),
    performance=PerformanceLimits(auc_at_least=0.65),
)

autumn = Monitor(
    name="flight-delay-autumn",
    description="Month by month; what has drifted in two months running raises an alert.",
    endpoint="flight-delay",
    window=timedelta(days=31),
    drift=DriftLimits(),
    drift_watch=DriftWatch(needed=2, of_last=2),
)

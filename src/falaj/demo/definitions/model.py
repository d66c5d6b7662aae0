"""The model, what each of its versions must keep, where it answers, and what is watched."""

from datetime import timedelta

from falaj.declare import (
    ChampionRule,
    DriftLimits,
    Endpoint,
    Labels,
    LatencyRule,
    LeakageRule,
    MetricRule,
    ModelPolicy,
    Monitor,
    PerformanceLimits,
    SliceRule,
)

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
)

endpoint = Endpoint(
    name="flight-delay",
    model="flight-delay",
    description="The chance that a flight will be late, asked two hours before it should leave.",
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

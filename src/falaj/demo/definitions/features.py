"""What is known of a flight two hours before it should leave."""

from collections.abc import Iterable
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from falaj.declare import (
    Aggregate,
    DType,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    OnDemandFeatures,
)

Column = npt.NDArray[np.float64]
Instants = npt.NDArray[np.int64]

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(weeks=1)

# Entities: what is described, and the columns that name it.

airport = Entity(name="airport", keys={"origin": DType.STRING})
carrier = Entity(name="carrier", keys={"carrier": DType.STRING})
aircraft = Entity(name="aircraft", keys={"tailnum": DType.STRING})
destination = Entity(name="destination", keys={"dest": DType.STRING})
route = Entity(name="route", keys={"origin": DType.STRING, "dest": DType.STRING})
desk = Entity(
    name="desk",
    keys={"carrier": DType.STRING, "origin": DType.STRING},
    description="One carrier at one airport.",
)
leg = Entity(
    name="leg",
    keys={"carrier": DType.STRING, "dest": DType.STRING},
    description="One carrier on its way to one destination.",
)
flight = Entity(
    name="flight",
    keys={"carrier": DType.STRING, "flight": DType.INT64},
    description="A flight number, flown again and again.",
)

# Latest values.

airport_weather = FeatureView(
    name="airport_weather",
    entity=airport,
    source="weather",
    event_time="known_at",
    ttl=timedelta(hours=6),
    description="The last hour whose weather is complete.",
    features=[
        Feature(name, DType.FLOAT64)
        for name in (
            "temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib",
        )
    ],
)  # fmt: skip
aircraft_register = FeatureView(
    name="aircraft_register",
    entity=aircraft,
    source="aircraft",
    event_time="registered_at",
    features=[Feature("built", DType.FLOAT64), Feature("seats", DType.FLOAT64)],
)

# Windows. A departure becomes an event when it happens: before, nobody knows its delay.


def delay(name: str, window: timedelta) -> Aggregate:
    """The mean delay of departures, in minutes."""
    return Aggregate(name, "mean", "delay", window=window)


def late(name: str, window: timedelta) -> Aggregate:
    """The share of departures that were late."""
    return Aggregate(name, "mean", "late", window=window)


def last_departure(name: str) -> Aggregate:
    """The instant of the last departure within a week."""
    return Aggregate(name, "last", "departed_at", dtype=DType.TIMESTAMP, window=WEEK)


def departures(name: str, entity: Entity, aggregates: Iterable[Aggregate]) -> FeatureView:
    """Windows over the departures of an entity."""
    return FeatureView(
        name=name,
        entity=entity,
        source="departures",
        event_time="departed_at",
        head=HOUR,
        aggregates=tuple(aggregates),
    )


airport_departures = departures(
    "airport_departures",
    airport,
    [
        delay("delay_1h", HOUR),
        delay("delay_3h", 3 * HOUR),
        late("late_3h", 3 * HOUR),
        Aggregate("departed_2h", "count", window=2 * HOUR),
        Aggregate("departed_6h", "count", window=6 * HOUR),
    ],
)
carrier_departures = departures(
    "carrier_departures",
    carrier,
    [
        delay("delay_3h", 3 * HOUR),
        late("late_24h", DAY),
        Aggregate("departed_6h", "count", window=6 * HOUR),
    ],
)
desk_departures = departures(
    "desk_departures",
    desk,
    [
        delay("delay_3h", 3 * HOUR),
        late("late_24h", DAY),
        late("late_7d", WEEK),
        late("late_28d", 4 * WEEK),
    ],
)
leg_departures = departures("leg_departures", leg, [late("late_7d", WEEK)])
route_departures = departures("route_departures", route, [late("late_24h", DAY)])
destination_departures = departures(
    "destination_departures", destination, [late("late_3h", 3 * HOUR)]
)
flight_departures = departures(
    "flight_departures", flight, [late("late_28d", 4 * WEEK), last_departure("departed_at")]
)
aircraft_departures = departures(
    "aircraft_departures",
    aircraft,
    [delay("delay_6h", 6 * HOUR), delay("delay_24h", DAY), last_departure("departed_at")],
)


def scheduled(name: str, entity: Entity, aggregates: Iterable[Aggregate]) -> FeatureView:
    """Windows over the schedule, which is known long before."""
    return FeatureView(
        name=name,
        entity=entity,
        source="schedule",
        event_time="scheduled_at",
        head=HOUR,
        aggregates=tuple(aggregates),
    )


airport_schedule = scheduled(
    "airport_schedule",
    airport,
    [
        Aggregate("scheduled_2h", "count", window=2 * HOUR),
        Aggregate("scheduled_6h", "count", window=6 * HOUR),
    ],
)
carrier_schedule = scheduled(
    "carrier_schedule", carrier, [Aggregate("scheduled_6h", "count", window=6 * HOUR)]
)

# Computed on demand, by the same function in training and in serving.


def calendar_of(scheduled_at: Instants, scheduled_local: Column) -> dict[str, Column]:
    """The minute of the day on New York's clock, and its weekday (0 is Monday).

    ``scheduled_local`` is that clock as a number, 1745 for a quarter to six. New York is
    four or five hours behind UTC; taking five off keeps every flight after one in the
    morning on its day.
    """
    day = (scheduled_at - 5 * 3_600_000_000) // 86_400_000_000
    return {
        "minute_of_day": scheduled_local // 100 * 60 + scheduled_local % 100,
        "weekday": ((day + 3) % 7).astype(np.float64),
    }


calendar = OnDemandFeatures.of(
    calendar_of,
    name="calendar",
    inputs={
        "scheduled_at": "request:scheduled_at",
        "scheduled_local": "request:scheduled_local",
    },
    outputs=[Feature("minute_of_day", DType.FLOAT64), Feature("weekday", DType.FLOAT64)],
)


def backlog_of(
    airport_scheduled_2h: Column,
    airport_departed_2h: Column,
    airport_scheduled_6h: Column,
    airport_departed_6h: Column,
    carrier_scheduled_6h: Column,
    carrier_departed_6h: Column,
) -> dict[str, Column]:
    """How many more flights should have departed than did: delays that are still growing."""
    return {
        "airport_2h": airport_scheduled_2h - airport_departed_2h,
        "airport_6h": airport_scheduled_6h - airport_departed_6h,
        "carrier_6h": carrier_scheduled_6h - carrier_departed_6h,
    }


backlog = OnDemandFeatures.of(
    backlog_of,
    name="backlog",
    inputs={
        "airport_scheduled_2h": "airport_schedule:scheduled_2h",
        "airport_departed_2h": "airport_departures:departed_2h",
        "airport_scheduled_6h": "airport_schedule:scheduled_6h",
        "airport_departed_6h": "airport_departures:departed_6h",
        "carrier_scheduled_6h": "carrier_schedule:scheduled_6h",
        "carrier_departed_6h": "carrier_departures:departed_6h",
    },
    outputs=[
        Feature("airport_2h", DType.FLOAT64),
        Feature("airport_6h", DType.FLOAT64),
        Feature("carrier_6h", DType.FLOAT64),
    ],
)


def rest_of(
    scheduled_at: Instants, aircraft_departed_at: Instants, flight_departed_at: Instants
) -> dict[str, Column]:
    """Hours from the last departure of the aircraft, and of the flight number, to this one.

    The least instant stands for "none in the last week".
    """
    return {
        "aircraft_hours": np.where(
            aircraft_departed_at < 0, np.nan, (scheduled_at - aircraft_departed_at) / 3.6e9
        ),
        "flight_hours": np.where(
            flight_departed_at < 0, np.nan, (scheduled_at - flight_departed_at) / 3.6e9
        ),
    }


rest = OnDemandFeatures.of(
    rest_of,
    name="rest",
    inputs={
        "scheduled_at": "request:scheduled_at",
        "aircraft_departed_at": "aircraft_departures:departed_at",
        "flight_departed_at": "flight_departures:departed_at",
    },
    outputs=[Feature("aircraft_hours", DType.FLOAT64), Feature("flight_hours", DType.FLOAT64)],
)

delay_features = FeatureService(
    name="delay_features",
    description="All that the delay model takes, in its order.",
    request_fields={
        "scheduled_at": DType.TIMESTAMP,
        "scheduled_local": DType.INT64,
        "carrier": DType.STRING,
        "origin": DType.STRING,
        "dest": DType.STRING,
        "distance": DType.FLOAT64,
    },
    on_demand=("calendar", "backlog", "rest"),
    features=(
        "calendar",
        "aircraft_register",
        "airport_weather",
        "airport_departures:delay_1h",
        "airport_departures:delay_3h",
        "airport_departures:late_3h",
        "carrier_departures:delay_3h",
        "carrier_departures:late_24h",
        "desk_departures",
        "leg_departures",
        "route_departures",
        "destination_departures",
        "flight_departures:late_28d",
        "aircraft_departures:delay_6h",
        "aircraft_departures:delay_24h",
        "rest",
        "backlog",
    ),
)

NOT_FOR_THE_MODEL = ("scheduled_at", "scheduled_local")
"""Request fields that other features are computed from; an instant is no input of a model."""

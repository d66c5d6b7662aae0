"""Times of a cron expression in a time zone.

Five fields: minute, hour, day of the month, month, day of the week (0 or 7 is Sunday, names are
taken). Where both days are restricted, either of them is enough, as cron has it. A local time
that a change of clocks leaves out counts as the first instant after it; one that comes twice
counts once, the first time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from falaj.kernel.errors import InvalidInput

_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6, "jul": 7, "aug": 8, "sep": 9,
    "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
_PART = re.compile(r"^(\*|[a-z0-9]+(?:-[a-z0-9]+)?)(?:/([0-9]+))?$")
_FARTHEST = timedelta(days=366 * 8 + 2)
"""29 February comes within eight years."""


class Cron:
    """The times of an expression.

    Args:
        expression: five fields, or ``@hourly``, ``@daily``, ``@weekly``, ``@monthly``, ``@yearly``.
        zone: an IANA time zone.

    Raises:
        InvalidInput: it is no such expression, names a time that never comes, or the zone is
            unknown.
    """

    def __init__(self, expression: str, zone: str = "UTC") -> None:
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise InvalidInput(
                f"{zone!r} is no time zone.", hint="Use a name such as Asia/Dubai or UTC."
            ) from None
        self.expression = expression
        fields = _SHORT.get(expression.strip().lower(), expression).lower().split()
        if len(fields) != len(_FIELDS):
            raise self._wrong("it has not five fields")
        parsed = [self._field(text, *about) for text, about in zip(fields, _FIELDS, strict=True)]
        self._minutes, self._hours, self._days, self._months, weekdays = parsed
        self._weekdays = {day % 7 for day in weekdays}
        self._either = not fields[2].startswith("*") and not fields[4].startswith("*")
        if next(self.after(datetime(2000, 1, 1, tzinfo=UTC)), None) is None:
            raise self._wrong("such a day never comes")

    def after(self, at: datetime) -> Iterator[datetime]:
        """The times after an instant, in UTC, ascending."""
        last = at.astimezone(UTC)
        local = last.astimezone(self._zone)
        day = local.date() - timedelta(days=1)
        end = day + _FARTHEST
        while day <= end:
            if self._on(day):
                for instant in self._instants(day):
                    if instant > last:
                        last = instant
                        end = day + _FARTHEST
                        yield instant
            day += timedelta(days=1)

    def until(self, since: datetime, now: datetime) -> list[datetime]:
        """The times after ``since`` and not after ``now``, the hundred latest of them."""
        found: list[datetime] = []
        for instant in self.after(since):
            if instant > now:
                break
            found.append(instant)
            if len(found) > 100:
                found.pop(0)
        return found

    def _on(self, day: date) -> bool:
        if day.month not in self._months:
            return False
        by_day, by_weekday = day.day in self._days, day.isoweekday() % 7 in self._weekdays
        return (by_day or by_weekday) if self._either else (by_day and by_weekday)

    def _instants(self, day: date) -> list[datetime]:
        found = set()
        for hour in self._hours:
            for minute in self._minutes:
                local = datetime.combine(day, time(hour, minute), self._zone)
                instant = local.astimezone(UTC)
                back = instant.astimezone(self._zone)
                if (back.hour, back.minute) != (hour, minute):
                    instant = self._first_after_gap(local)
                found.add(instant)
        return sorted(found)

    @staticmethod
    def _first_after_gap(local: datetime) -> datetime:
        """The instant at which clocks were put forward over a local time."""
        offset_before = local.replace(fold=0).utcoffset() or timedelta()
        offset_after = local.replace(fold=1).utcoffset() or timedelta()
        # Of a time within a gap, fold 0 has the offset of before: read so it lies after the
        # change by as much as it lies within the gap.
        low = local.replace(tzinfo=UTC) - max(offset_before, offset_after)
        high = local.replace(tzinfo=UTC) - min(offset_before, offset_after)
        zone = local.tzinfo
        while high - low > timedelta(minutes=1):
            middle = low + (high - low) / 2
            if middle.astimezone(zone).utcoffset() == low.astimezone(zone).utcoffset():
                low = middle
            else:
                high = middle
        return high.replace(second=0, microsecond=0)

    def _field(self, text: str, name: str, least: int, most: int) -> set[int]:
        found: set[int] = set()
        for part in text.split(","):
            match = _PART.match(part)
            if match is None:
                raise self._wrong(f"{part!r} is no {name}")
            span, step = match.group(1), int(match.group(2) or 1)
            if span == "*":
                first, last = least, most - (name == "weekday")
            else:
                begin, _, end = span.partition("-")
                first = self._number(begin, name)
                last = self._number(end, name) if end else (most if match.group(2) else first)
            if not (least <= first <= last <= most and step > 0):
                raise self._wrong(f"{part!r} is no {name} from {least} to {most}")
            found |= set(range(first, last + 1, step))
        return found

    def _number(self, text: str, name: str) -> int:
        names = {"month": _MONTHS, "weekday": _DAYS}.get(name, {})
        if text in names:
            return names[text]
        if not text.isdecimal() or len(text) > 2:
            raise self._wrong(f"{text!r} is no {name}")
        return int(text)

    def _wrong(self, why: str) -> InvalidInput:
        return InvalidInput(
            f"{self.expression!r} is no cron expression: {why}.",
            hint="Such as `30 6 * * mon-fri`: minute, hour, day, month, day of the week.",
        )

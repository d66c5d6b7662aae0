"""What a feature means, in plain Python: both executions are held against this.

A row is a dict by source column; instants are UTC microseconds. A history is the list of
all rows in the order in which they were written. Of falaj nothing is used but the words of
the definitions. See section 6 of the architecture and ADR 10.
"""

import math
import operator
from collections import Counter
from datetime import timedelta

MICROSECOND = timedelta(microseconds=1)
COMPARES = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
            ">": operator.gt, ">=": operator.ge}  # fmt: skip


def passes(row, item):
    """Whether a row filter keeps a row; a null compares as false."""
    value = row[item.column]
    if item.op in ("is_null", "not_null"):
        return (value is None) == (item.op == "is_null")
    if value is None:
        return False
    return value in item.value if item.op == "in" else COMPARES[item.op](value, item.value)


def known(view, keys, history, entity, t, knowledge):
    """The events of an entity that were known at t: oldest first, ties in the order they win."""
    found = []
    for position, row in enumerate(history):
        time = row[view.event_time]
        whose = tuple(row[view.entity_columns.get(key, key)] for key in keys)
        if time is None or None in whose or not all(passes(row, item) for item in view.where):
            continue  # no event of this view
        recorded = row[view.recorded_at] if view.recorded_at else None
        recorded = time if recorded is None else recorded
        if whose == entity and time <= t and (recorded <= t or knowledge == "event"):
            found.append((time, recorded, position, row))
    return [row for *_, row in sorted(found, key=lambda event: event[:3])]


def latest(view, feature, events, t):
    """(value, status) of the newest event, unless it has expired."""
    if not events:
        return None, "missing"
    if view.ttl is not None and events[-1][view.event_time] <= t - view.ttl // MICROSECOND:
        return None, "expired"
    value = events[-1][feature.column]
    return value, "null" if value is None else "present"


def counted(view, aggregate, events, t):
    """The values in a window, oldest first: exact at the head, whole hops at the tail."""
    after = (t - aggregate.window_us) // aggregate.hop_us * aggregate.hop_us
    events = [row for row in events if row[view.event_time] > after]
    values = [1 if aggregate.column is None else row[aggregate.column] for row in events]
    return [value for value in values if value is not None]


def aggregated(aggregate, values):
    """What an aggregate makes of the values that it counts."""
    name, n = aggregate.function, len(values)
    if name == "count":
        return n
    numbers = [(value != value, 0 if value != value else value) for value in values]  # NaN is last
    often = Counter(numbers)
    if name == "distinct":
        return len(often)
    if not values:
        return None
    if name == "last":
        return values[-1]
    if name == "quantile":
        return float(plain(sorted(numbers)[math.ceil(aggregate.q * n) - 1]))
    if name == "topk":
        ranked = sorted(often, key=lambda number: (-often[number], number))
        return [plain(number) for number in ranked[: aggregate.k]]
    if any(value != value for value in values):
        return math.nan
    if name in ("min", "max"):
        return min(values) if name == "min" else max(values)
    infinite = [value for value in values if math.isinf(value)]
    if infinite:
        return math.nan if name == "std" else sum(infinite)
    mean = math.fsum(values) / n
    squares = math.fsum((value - mean) ** 2 for value in values)
    return {"sum": math.fsum(values), "mean": mean, "std": math.sqrt(squares / n)}[name]


def plain(number):
    """The value of a number that tells first whether it is NaN."""
    return math.nan if number[0] else number[1]


def answer(view, keys, history, entity, t, knowledge="recorded"):
    """What a view says of an entity at t: {feature: (value, status)}, and its newest event."""
    events = known(view, keys, history, entity, t, knowledge)
    found = {feature.name: latest(view, feature, events, t) for feature in view.features}
    for aggregate in view.aggregates:
        value = None
        if None not in entity:
            value = aggregated(aggregate, counted(view, aggregate, events, t))
        absent = "null" if events else "missing"
        found[aggregate.name] = value, absent if value is None else "present"
    return found, events[-1][view.event_time] if events else None

"""Declared metrics, measured: sums over the units of each variant, and nothing of any unit.

A metric's text is somebody's: it is one SELECT over the tables that the metric names and the
prediction log of the endpoint, is run read-only by the lake within a limit of time, and cannot
recur. Only sums leave the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import InvalidInput
from falaj.lake.deadline import queries_within
from falaj.lake.filters import parsed
from falaj.lake.model import QueryRefused
from falaj.lake.queries import nodes, table_names
from falaj.rollouts.effects import Sums
from falaj.rollouts.model import CHAMPION, Metric, MetricKind
from falaj.serving.names import table_of

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake

_SECONDS = 60.0
_TAKEN = ("metric_", "unit_", "rollout_")
"""Beginnings of names that a metric's own text may not use for its parts."""
_AT_ONCE = {
    MetricKind.PROPORTION: "max",
    MetricKind.MEAN: "sum",
    MetricKind.RATIO: "sum",
    MetricKind.EVENTS: "max",
    MetricKind.QUANTILE: "max",
}
"""How several values of one unit become one."""

RunFunction = Callable[[Metric, Mapping[str, "pa.Table"]], "pa.Table"]
"""Runs a metric's Python function with the tables that it reads, apart from this process."""


class MetricRefused(InvalidInput):
    """A metric's text asks for more than it may, or does not give what a metric gives."""

    code = "metric-refused"


@dataclass(frozen=True)
class Cell:
    """What units are added up by.

    Attributes:
        variant: that they met.
        period: index of the stretch of constant shares in which they met it; of an interleaved
            rollout the period.
        segment: a field's place among the fields asked for and a value of it; None for all.
    """

    variant: str
    period: int
    segment: tuple[int, str] | None = None


@dataclass
class UnitSums:
    """A metric's sums over units, by what they are added up by."""

    cells: dict[Cell, Sums] = field(default_factory=dict)
    over: dict[Cell, tuple[float, float]] = field(default_factory=dict)
    """Of a quantile: units above the threshold, and above that threshold with what is
    tolerated on it."""

    def of(self, variant: str, segment: tuple[int, str] | None = None) -> dict[int, Sums]:
        """The sums of one variant by period."""
        return {
            cell.period: sums
            for cell, sums in sorted(self.cells.items(), key=lambda item: item[0].period)
            if cell.variant == variant and cell.segment == segment
        }

    def units(self, variant: str) -> float:
        """Units of one variant that have a value."""
        return round(sum(sums.n for sums in self.of(variant).values()))

    def shrunk(self, clumping: float) -> UnitSums:
        """Of as many independent units as tell as much: a factor of all their variances."""
        by = 1 / max(clumping, 1.0)
        return UnitSums(
            {cell: Sums(*(one * by for one in astuple(sums))) for cell, sums in self.cells.items()},
            {cell: (first * by, second * by) for cell, (first, second) in self.over.items()},
        )


@dataclass(frozen=True)
class Asked:
    """How a metric shall be measured.

    Attributes:
        bounds: Unix microseconds at which new shares began, growing; the first is the start.
        n_fields: of the exposures, by whose values units are added up as well.
        pairs: add up by segment and interleaving period together: the exposures' first field.
        thresholds: of a quantile: for the champion and for a challenger.
        by_variant: the metric tells whose variant each value is, in a column ``variant``.
    """

    bounds: Sequence[int]
    n_fields: int = 0
    pairs: bool = False
    thresholds: tuple[float, float] | None = None
    by_variant: bool = False


class DeclaredMetrics:
    """Measures declared metrics.

    Args:
        lake: read as the platform; what whoever starts a rollout may read of it is checked
            when the rollout is started (``rights``).
        run: runs Python functions; None where there is nothing that could.
        seconds: that one reading may take.
    """

    def __init__(
        self, lake: Lake, *, run: RunFunction | None = None, seconds: float = _SECONDS
    ) -> None:
        self._lake = lake
        self._run = run
        self._seconds = seconds

    def sums(
        self,
        metric: Metric,
        endpoint: str,
        exposures: pa.Table,
        now: datetime,
        asked: Asked,
        covariate: Metric | None = None,
    ) -> UnitSums:
        """The metric's sums over exposed units whose value became known by ``now``.

        A value counts from the unit's exposure on until its next one, in a later stretch; several
        are added up (of a proportion, events and a quantile: the largest counts). A unit that has
        values in several stretches counts in each of them, and the sums are those of as many
        independent units as tell as much. While a table that the metric
        names does not exist, there are no values. The covariate's values are those
        from before the unit's first exposure; a unit that has none gets the mean of the others.

        Raises:
            MetricRefused: its text or what it gives is none of a metric.
            QueryTooLong: it takes too long.
        """
        if not self._all_there(metric) or (covariate and not self._all_there(covariate)):
            return UnitSums()
        inputs: dict[str, pa.Table] = {"rollout_exposures": exposures}
        text = self._source(metric, endpoint, "rollout_values", inputs)
        before = None
        if covariate is not None:
            before = self._source(covariate, endpoint, "rollout_covariate", inputs)
        sql = _query(metric, text, before, asked)
        try:
            with queries_within(self._seconds):
                found = self._lake.query(
                    sql, inputs=inputs, parameters={"now_us": int(now.timestamp() * 1e6)}
                )
        except InvalidInput as error:
            raise MetricRefused(
                f"The metric {metric.name!r} cannot be measured: {error.message}",
                hint="It gives the columns unit, known_at and value (and denominator for a ratio).",
            ) from error
        return _read(metric, found.to_pylist(), asked)

    def quantile(
        self, metric: Metric, endpoint: str, exposures: pa.Table, now: datetime, variant: str
    ) -> tuple[float | None, int]:
        """The metric's quantile over the units of one variant, and how many there are.

        Raises: as ``sums``.
        """
        if not self._all_there(metric):
            return None, 0
        inputs: dict[str, pa.Table] = {"rollout_exposures": exposures}
        text = self._source(metric, endpoint, "rollout_values", inputs)
        sql = (
            f"{_per_unit(metric, text, None)} SELECT quantile_disc(y, $share) AS value,"
            " count(*) AS n FROM unit_values WHERE variant = $variant"
        )
        parameters = {
            "now_us": int(now.timestamp() * 1e6), "share": metric.quantile, "variant": variant
        }  # fmt: skip
        with queries_within(self._seconds):
            row = self._lake.query(sql, inputs=inputs, parameters=parameters).to_pylist()[0]
        return row["value"], int(row["n"])

    def _all_there(self, metric: Metric) -> bool:
        """False while a table that it names was never written: there are no outcomes yet."""
        return all(self._lake.exists(table) for table in metric.tables)

    def _source(self, metric: Metric, endpoint: str, name: str, inputs: dict[str, pa.Table]) -> str:
        """What stands in a FROM for a metric; a function's answer is added to the inputs."""
        if metric.sql is not None:
            tables_read(metric, endpoint)
            return f"({metric.sql}\n)"
        if self._run is None:
            raise MetricRefused(
                f"The metric {metric.name!r} is a Python function, and nothing runs those here.",
                hint="Declare it as SQL.",
            )
        tables = {one: self._lake.scan(one) for one in tables_read(metric, endpoint)}
        inputs[name] = self._run(metric, tables)
        return name


def tables_read(metric: Metric, endpoint: str) -> set[str]:
    """The lake tables that a metric reads; the prediction log is one only if it is named.

    Raises:
        MetricRefused: its text is no single SELECT over the tables that it names.
    """
    if metric.sql is None:
        return set(metric.tables)
    return checked(metric, {*metric.tables, table_of(endpoint)})


def columns_of(metric: Metric, *, by_variant: bool = False) -> tuple[str, ...]:
    """The columns that a metric gives; ``by_variant`` as those of a shadow rollout do."""
    ratio = ("denominator",) if metric.measures is MetricKind.RATIO else ()
    return ("unit", "known_at", "value", *ratio, *(("variant",) if by_variant else ()))


def check_there(lake: Lake, metric: Metric, endpoint: str, *, by_variant: bool = False) -> None:
    """Return if a metric can be measured on the tables as they are now; reads no row of them.

    Raises:
        MetricRefused: a table that it names does not exist, or its text does not fit them.
    """
    missing = [table for table in metric.tables if not lake.exists(table)]
    if missing:
        raise MetricRefused(
            f"The metric {metric.name!r} reads {missing[0]!r}, and there is no such table.",
            hint="Load it first, if with one row; `falaj tables list` shows all.",
        )
    if metric.sql is None or not all(map(lake.exists, tables_read(metric, endpoint))):
        return  # a function's answer is not known before it runs, nor a log before its first row
    numbers = [one for one in columns_of(metric) if one in ("value", "denominator")]
    cast = "".join(f", CAST({one} AS DOUBLE) AS {one}" for one in numbers)
    sql = (
        f"SELECT CAST(unit AS VARCHAR) AS unit, epoch_us(known_at)::BIGINT AS at_us{cast}"
        f"{', variant' if by_variant else ''} FROM ({metric.sql}\n) LIMIT 0"
    )
    try:
        with queries_within(_SECONDS):
            lake.query(sql)
    except InvalidInput as error:
        raise MetricRefused(
            f"The metric {metric.name!r} cannot be measured: {error.message}",
            hint=f"It gives the columns {', '.join(columns_of(metric, by_variant=by_variant))}.",
        ) from error


def checked(metric: Metric, allowed: Collection[str]) -> set[str]:
    """The tables that a metric's SQL reads, all of them among those that are allowed.

    Raises:
        MetricRefused: it reads others, is no single SELECT, or recurs.
    """
    sql = metric.sql or ""
    try:
        found = table_names(sql, allowed)
    except QueryRefused as error:
        raise MetricRefused(
            f"The metric {metric.name!r} is refused: {error.message}",
            hint=f"It may read {', '.join(sorted(allowed))}; name others in its `tables`.",
        ) from error
    for node in nodes(parsed(sql)):
        if node.get("type") == "RECURSIVE_CTE_NODE":
            raise MetricRefused(
                f"The metric {metric.name!r} is refused: it recurs (WITH RECURSIVE).",
                hint="Join or aggregate instead.",
            )
        names = [str(node.get("cte_name") or "").lower()]
        entries = node.get("cte_map") or {}
        if isinstance(entries, Mapping):
            names += [str(one.get("key", "")).lower() for one in entries.get("map", [])]
        if any(one.startswith(_TAKEN) for one in names):
            raise MetricRefused(
                f"The metric {metric.name!r} is refused: parts of it have names that begin with"
                f" one of {', '.join(_TAKEN)}.",
                hint="Choose other names after WITH.",
            )
    return found


def _per_unit(metric: Metric, text: str, before: str | None, *, by_variant: bool = False) -> str:
    """WITH …: one row for each exposed unit that has a value, ``unit_values``."""
    ratio = metric.measures is MetricKind.RATIO
    one = _AT_ONCE[metric.measures]
    d = "CAST(denominator AS DOUBLE)" if ratio else "0.0::DOUBLE"
    events = metric.measures is MetricKind.EVENTS
    x = "0.0::DOUBLE"
    parts = f"""WITH metric_values AS (
        SELECT CAST(unit AS VARCHAR) AS unit, epoch_us(known_at)::BIGINT AS at_us,
               CAST(value AS DOUBLE) AS y, {d} AS d{", variant" if by_variant else ""} FROM {text}
        WHERE value IS NOT NULL{" AND denominator IS NOT NULL" if ratio else ""}
    ), unit_values AS (
        SELECT e.*, {one}(coalesce(v.y, 0)) AS y, sum(coalesce(v.d, 0)) AS d
        FROM rollout_exposures e {"LEFT" if events else ""} JOIN metric_values v
          ON v.unit = e.unit AND v.at_us >= e.at_us AND v.at_us < e.until_us AND v.at_us <= $now_us
             {"AND v.variant = e.variant" if by_variant else ""}
        WHERE v.y IS NULL OR (isfinite(v.y) AND isfinite(v.d)) GROUP BY ALL
    )"""
    if before is None:
        return f"{parts}, unit_sides AS (SELECT *, {x} AS x FROM unit_values)"
    return f"""{parts}, unit_before AS (
        SELECT e.unit, sum(CAST(c.value AS DOUBLE)) AS x
        FROM (SELECT DISTINCT unit, first_us FROM rollout_exposures) e JOIN {before} c
          ON CAST(c.unit AS VARCHAR) = e.unit AND epoch_us(c.known_at) < e.first_us
        WHERE isfinite(CAST(c.value AS DOUBLE)) GROUP BY ALL
    ), unit_sides AS (
        SELECT v.*, coalesce(b.x, avg(b.x) OVER (), 0) AS x FROM unit_values v
        LEFT JOIN unit_before b USING (unit)
    )"""


def _query(metric: Metric, text: str, before: str | None, asked: Asked) -> str:
    stretch = "period" if asked.pairs else case([(at, n) for n, at in enumerate(asked.bounds)])
    apart = asked.pairs or asked.by_variant or len(asked.bounds) < 2
    fields = [f"f{n}" for n in range(asked.n_fields)]
    sets = ["(variant, stretch)", *(f"(variant, stretch, {name})" for name in fields)]
    if asked.pairs:
        sets = ["(variant, stretch, f0)"]
    named = "".join(f", {name}" for name in fields)
    grouped = "".join(f", grouping({name}) AS g_{name}" for name in fields)
    over = ""
    if asked.thresholds is not None:
        sign = _beyond(metric)
        first, second = asked.thresholds
        over = (
            f", count(*) FILTER (y {sign} {first!r}::DOUBLE) AS over_first"
            f", count(*) FILTER (y {sign} {second!r}::DOUBLE) AS over_second"
        )
    return f"""{_per_unit(metric, text, before, by_variant=asked.by_variant)}
        , unit_placed AS MATERIALIZED (SELECT *, {stretch} AS stretch FROM unit_sides)
        {"" if apart else _clumping(metric, asked)}
        SELECT variant, stretch{named}{grouped}, count(*) AS n, min(y) AS least, max(y) AS most,
               sum(y) AS y, sum(y * y) AS yy, sum(d) AS d, sum(d * d) AS dd, sum(y * d) AS yd,
               sum(x) AS x, sum(x * x) AS xx, sum(x * y) AS xy{over}
        FROM unit_placed GROUP BY GROUPING SETS ({", ".join(sets)})
        {"" if apart else "UNION ALL BY NAME " + _CLUMPED}"""


def case(places: Sequence[tuple[int, int]]) -> str:
    """SQL: of pairs of a start and a figure, growing, the figure of the last that began."""
    cases = "".join(f" WHEN at_us >= {int(at)} THEN {int(told)}" for at, told in places[:0:-1])
    least = int(places[0][1]) if places else 0
    return f"CASE{cases} ELSE {least} END" if cases else f"{least}"


def _clumping(metric: Metric, asked: Asked) -> str:
    """SQL: how many times as large as among independent rows the variance of the effect is.

    The same unit has a row in each stretch in which it was seen, and its figures are alike. So
    what each row adds to the pooled effect is summed by unit, and squared then: the variance by
    clusters (Liang and Zeger, Biometrika 1986), against that of rows which are independent.
    """
    value, scale = "y", "1.0"
    if metric.measures is MetricKind.RATIO:
        value, scale = "(y - s.y / nullif(s.d, 0) * u.d)", "nullif(s.d / s.n, 0)"
    elif asked.thresholds is not None:
        value = f"(y {_beyond(metric)} {asked.thresholds[0]!r}::DOUBLE)::DOUBLE"
    mean = "0.0" if metric.measures is MetricKind.RATIO else f"avg({value})"
    value = value.replace("(y ", "(u.y ") if value != "y" else "u.y"
    return f""", unit_cells AS (
        SELECT variant, stretch, count(*)::DOUBLE AS n, sum(y) AS y, sum(d) AS d, {mean} AS mean
        FROM unit_placed GROUP BY ALL
    ), unit_pairs AS (
        SELECT c.variant AS challenger, stretch, 4 * c.n * o.n / (c.n + o.n) AS weight
        FROM unit_cells c JOIN unit_cells o USING (stretch)
        WHERE c.variant <> '{CHAMPION}' AND o.variant = '{CHAMPION}' AND least(c.n, o.n) >= 2
    ), unit_parts AS (
        SELECT challenger, u.unit, sum(part) AS part, sum(part * part) AS alone FROM (
            SELECT challenger, u.unit, weight / s.n * ({value} - s.mean) / {scale}
                   * (CASE WHEN u.variant = challenger THEN 1 ELSE -1 END) AS part
            FROM unit_placed u JOIN unit_cells s USING (variant, stretch)
            JOIN unit_pairs p ON p.stretch = u.stretch
             AND (u.variant = challenger OR u.variant = '{CHAMPION}')
        ) u GROUP BY ALL
    )"""


_CLUMPED = """SELECT max(clumping) AS clumping FROM (
    SELECT sum(part * part) / nullif(sum(alone), 0) AS clumping FROM unit_parts GROUP BY challenger
)"""


def _beyond(metric: Metric) -> str:
    return ">" if metric.better == "lower" else "<"


def _read(metric: Metric, rows: Sequence[Mapping[str, Any]], asked: Asked) -> UnitSums:
    found, clumping = UnitSums(), 1.0
    for row in rows:
        if row["variant"] is None:
            clumping = float(row["clumping"] or 1.0)
            continue
        if metric.measures in (MetricKind.PROPORTION, MetricKind.EVENTS) and not (
            row["least"] >= 0 and row["most"] <= 1
        ):
            raise MetricRefused(
                f"The metric {metric.name!r} gives values from {row['least']:g} to"
                f" {row['most']:g}; a {metric.measures} is 0 or 1.",
                hint='Declare it with measures="mean", or give 0 and 1.',
            )
        segment = None
        if not asked.pairs:
            told = [n for n in range(asked.n_fields) if not row[f"g_f{n}"]]
            segment = (told[0], str(row[f"f{told[0]}"])) if told else None
        else:
            segment = (0, str(row["f0"]))
        cell = Cell(row["variant"], int(row["stretch"] or 0), segment)
        names = ("n", "y", "yy", "d", "dd", "yd", "x", "xx", "xy")
        found.cells[cell] = Sums(*(float(row[name] or 0.0) for name in names))
        if asked.thresholds is not None:
            found.over[cell] = float(row["over_first"]), float(row["over_second"])
    return found.shrunk(clumping) if clumping > 1 else found

"""``falaj endpoints top``: what the endpoints do now, a table that is renewed each second."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from falaj.interfaces.session import Session
    from falaj.serving.model import Measurement, SeriesCounts

_SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999}
_ADDED = ("requests", "predictions", "refused", "failed", "shed", "late", "unlogged", "runs")


class TopRow(BaseModel):
    """What one endpoint, or one of its variants, did in a span of time."""

    endpoint: str
    variant: str
    """Empty for the endpoint as a whole."""
    requests_per_second: float
    """Answered ones."""
    predictions_per_second: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    errors_per_second: float
    """Answers 4xx and 5xx, but for those that were shed."""
    shed_per_second: float
    queue: int
    """Requests in work when the workers last looked."""
    queue_ms: float | None
    """That an answered request waited for its turn, on average."""
    batch_rows: float | None
    """Rows of a run of the model, on average."""
    workers: int
    release: str | None


def rows_between(before: Measurement, after: Measurement) -> list[TopRow]:
    """What happened between two measurements: each endpoint, then its variants if several."""
    seconds = max((after.at - before.at).total_seconds(), 1e-9)
    known = {(one.endpoint, one.variant, one.shadow): one for one in before.series}
    by_endpoint: dict[str, list[SeriesCounts]] = defaultdict(list)
    for one in after.series:
        earlier = known.get((one.endpoint, one.variant, one.shadow))
        by_endpoint[one.endpoint].append(_since(earlier, one))
    rows = []
    for endpoint, found in sorted(by_endpoint.items()):
        series = [one for one in found if not one.shadow]
        shadows = [one for one in found if one.shadow]
        variants = [one for one in series if one.variant]
        only = variants[0].variant if len(variants) == 1 else ""
        rows.append(_row(endpoint, only, series, seconds))
        if not only:
            rows += [_row(endpoint, one.variant, [one], seconds) for one in variants]
        rows += [_row(endpoint, f"{one.variant} (shadow)", [one], seconds) for one in shadows]
    return rows


def _since(before: SeriesCounts | None, after: SeriesCounts) -> SeriesCounts:
    if before is None:
        return after
    counted = dict(before.latency)
    update: dict[str, Any] = {
        name: getattr(after, name) - getattr(before, name)
        for name in (*_ADDED, "queue_seconds", "model_seconds")
    }
    update["latency"] = [(place, n - counted.get(place, 0)) for place, n in after.latency]
    return after.model_copy(update=update)


def _row(endpoint: str, variant: str, series: list[SeriesCounts], seconds: float) -> TopRow:
    total = {name: sum(getattr(one, name) for one in series) for name in _ADDED}
    if len(series) > 1:  # what a variant failed on is among the answers of the endpoint
        total["failed"] = sum(one.failed for one in series if not one.variant)
    waited = sum(one.queue_seconds for one in series)
    errors = total["refused"] + total["failed"] - total["shed"]
    return TopRow(
        endpoint=endpoint,
        variant=variant,
        requests_per_second=total["requests"] / seconds,
        predictions_per_second=total["predictions"] / seconds,
        errors_per_second=errors / seconds,
        shed_per_second=total["shed"] / seconds,
        queue=sum(one.in_flight for one in series),
        queue_ms=waited / total["requests"] * 1000 if total["requests"] else None,
        batch_rows=total["predictions"] / total["runs"] if total["runs"] else None,
        workers=max(one.workers for one in series),
        release=series[0].release,
        **_quantiles(pair for one in series for pair in one.latency),
    )


def _quantiles(latency: Iterable[tuple[int, int]]) -> dict[str, float | None]:
    import numpy as np

    from falaj.serving.counted import BUCKETS, quantile_ms

    counts = np.zeros(BUCKETS, np.int64)
    for place, n in latency:
        counts[place] += n
    return {name: quantile_ms(counts, share) for name, share in _SHARES.items()}


def table_of(rows: list[TopRow]) -> Table:
    """The rows as a table for a terminal."""
    from falaj.interfaces.printing import tame

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("endpoint", no_wrap=True)
    table.add_column("variant", no_wrap=True)
    for name in (
        "req/s", "pred/s", "p50 ms", "p90", "p99", "p99.9", "err/s", "shed/s",
        "queue", "rows/run", "workers",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("release", no_wrap=True)
    for row in rows:
        table.add_row(
            escape(tame(row.endpoint)),
            escape(tame(row.variant)),
            f"{row.requests_per_second:,.0f}",
            f"{row.predictions_per_second:,.0f}",
            *(_figure(value) for value in (row.p50_ms, row.p90_ms, row.p99_ms, row.p999_ms)),
            _rate(row.errors_per_second),
            _rate(row.shed_per_second),
            str(row.queue),
            _figure(row.batch_rows),
            str(row.workers),
            escape(tame((row.release or "–")[-12:])),
        )
    return table


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _rate(value: float) -> str:
    """A rate that is red as soon as it is not nothing."""
    return "0" if value <= 0 else f"[red]{value:.3g}[/]"


def add_top(group: typer.Typer) -> None:
    """Give the commands of endpoints one more."""

    @group.command("top")
    def top(
        context: typer.Context,
        once: Annotated[
            bool, typer.Option("--once", help="Print one table and end; for scripts.")
        ] = False,
        every: Annotated[
            float, typer.Option(help="Seconds between two looks.", min=0.1, max=3600.0)
        ] = 1.0,
    ) -> None:
        """Show what the endpoints do now: rates, latency, errors, renewed each second."""
        shown(context.obj, once=once, every=every)


def shown(session: Session, *, once: bool, every: float) -> None:
    """Look twice and print what happened between; again and again if it is a terminal."""
    look = session.platform.endpoints.traffic
    before = look()
    time.sleep(every)
    after = look()
    rows = rows_between(before, after)
    if once or session.as_json or not session.console.is_terminal:
        if session.as_json or session.only is not None:
            session.show(rows)
        else:
            session.console.print(table_of(rows) if rows else "No endpoint has been asked yet.")
        return
    from rich.live import Live

    try:
        with Live(table_of(rows), console=session.console, auto_refresh=False) as live:
            while True:
                before = after
                time.sleep(every)
                after = look()
                live.update(table_of(rows_between(before, after)), refresh=True)
    except KeyboardInterrupt:
        return

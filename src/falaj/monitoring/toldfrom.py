"""What figures were told from: the tables and columns that whoever reads them must see in clear.

A figure over few rows tells those rows. So it is kept with what it was told from, and shown to
those who may read that themselves. Alerts go to whoever sees the endpoint, and beyond the
platform: of such a figure they tell that it crossed its limit, and which report shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from falaj.monitoring.model import Labels
from falaj.monitoring.performancewords import Slice
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from falaj.monitoring.driftwords import DriftReport
    from falaj.monitoring.model import KeptReport

ToldFrom = Mapping[str, list[str] | None]
"""Columns by table; None stands for all of a table's columns."""
FIELD = "told_from"
"""Of a kept report's document."""
LOG_COLUMNS = {"field": ("fields",), "input": ("features",)}
"""What of the log is read for a slice, by what the slice is of; the other columns of the log say
nothing of a request's content."""
UNTOLD = "(told from tables that you may not read)"


def joined(*parts: ToldFrom) -> dict[str, list[str] | None]:
    """All of them."""
    found: dict[str, list[str] | None] = {}
    for table, columns in (one for part in parts for one in part.items()):
        before = found.get(table, [])
        if before is None or columns is None:
            found[table] = None
        else:
            found[table] = list(dict.fromkeys([*before, *columns]))
    return found


def of_labels(labels: Labels | None, cuts: Iterable[Slice] = ()) -> dict[str, list[str] | None]:
    """What is read of a label table, for slices too."""
    if labels is None:
        return {}
    own = [cut.by for cut in cuts if cut.of == "label"]
    wanted = [labels.label, labels.key or labels.on, labels.recorded_at, *own]
    return {labels.table: [name for name in dict.fromkeys(wanted) if name is not None]}


def of_log(endpoint: str, cuts: Iterable[Slice]) -> dict[str, list[str] | None]:
    """What is read of a prediction log to tell rows apart."""
    columns = [name for cut in cuts for name in LOG_COLUMNS.get(cut.of, ())]
    return {table_of(endpoint): list(dict.fromkeys(columns))} if columns else {}


def of_rows(endpoint: str) -> dict[str, list[str] | None]:
    """The inputs of a prediction log, row by row."""
    return {table_of(endpoint): ["features"]}


def of_drift(report: DriftReport, labels: Labels | None) -> ToldFrom:
    """What a drift report was told from, beyond sketches."""
    rows = report.sampled is not None or report.source == "rows"
    return joined(
        of_labels(labels if report.labels is not None else None),
        of_rows(report.endpoint) if rows else {},
    )


def of_kept(report: KeptReport) -> ToldFrom:
    """What a kept report was told from; of a report that does not say so, by its labels and
    slices."""
    document = report.document
    told: ToldFrom | None = document.get(FIELD)
    if told is not None:
        return told
    known = [one["slice"] for one in document.get("slices") or []]
    if report.kind == "fairness":
        known.append(document["groups"])
    cuts = [Slice.model_validate(one) for one in known]
    found = document.get("labels") if report.kind in _LABELLED else None
    labels = Labels.model_validate(found) if found else None
    return joined(of_labels(labels, cuts), of_log(report.endpoint, cuts))


_LABELLED = ("performance", "calibration", "fairness")


def with_told(document: dict[str, Any], told: ToldFrom) -> dict[str, Any]:
    """A report's document that says what it was told from."""
    return {**document, FIELD: dict(told)}


def untold(result: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a ``CheckResult`` without its sentences."""
    return {
        **result,
        "findings": [UNTOLD] * len(result.get("findings", ())),
        "waiting": [UNTOLD] * len(result.get("waiting", ())),
    }


def discreet(what: str, report: str, told: ToldFrom) -> str:
    """The message of an alert whose figures are not for all who see it."""
    return f"{what}. {report} shows the figures to whoever may read {', '.join(sorted(told))}."

"""Label drift: the share of label 1 among the answers that are known, now and before."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from falaj.kernel.errors import NotFound
from falaj.monitoring.counts import proportions_differ
from falaj.monitoring.driftwords import DriftReference, LabelDrift
from falaj.monitoring.joined import check_task
from falaj.monitoring.references import windows_of

if TYPE_CHECKING:
    from falaj.monitoring.model import Labels
    from falaj.monitoring.performance import Performance

_SURE = 0.01


def label_drift(
    performance: Performance,
    endpoint: str,
    labels: Labels,
    window: tuple[datetime, datetime],
    reference: DriftReference,
    limit: float,
) -> LabelDrift:
    """Compare the share of label 1 of a window's predictions with that of a reference's.

    Training rows hold no share of labels that the bundle would tell: against them the window
    right before is the reference.

    Args:
        window: of the predictions; labels that arrive later are not in it yet.
        limit: difference of the shares from which labels have drifted.
    """
    check_task(labels, ("binary",))
    if reference.kind == "training":
        reference = DriftReference(kind="rolling")
    k_now, n_now = _counted(performance, endpoint, labels, window)
    k_was = n_was = 0.0
    for one in windows_of(reference, *window):
        k, n = _counted(performance, endpoint, labels, one)
        k_was, n_was = k_was + k, n_was + n
    now, was = (k_now / n_now if n_now else 0.0), (k_was / n_was if n_was else 0.0)
    p = proportions_differ(k_was, n_was, k_now, n_now)
    drifted = bool(n_now and n_was) and abs(now - was) >= limit and p <= _SURE
    return LabelDrift(
        reference_share=was,
        observed_share=now,
        n_reference=int(n_was),
        n_observed=int(n_now),
        p_value=p,
        drifted=drifted,
        why=f"share of label 1 {now:.1%}, was {was:.1%} (limit {limit:g})" if drifted else "",
    )


def _counted(
    performance: Performance, endpoint: str, labels: Labels, window: tuple[datetime, datetime]
) -> tuple[float, float]:
    try:
        periods = performance.report(endpoint, labels, *window, by="month").periods
    except NotFound:  # nothing was predicted then
        return 0.0, 0.0
    k = sum((one.positive_rate or 0.0) * one.n_labels for one in periods)
    return round(k), float(sum(one.n_labels for one in periods))

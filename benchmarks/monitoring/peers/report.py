"""One drift report of a peer over two Parquet files, in the peer's own environment.

Usage: report.py alibi|evidently|whylogs REFERENCE OBSERVED; prints seconds, the peak in MB and
the columns that it says have drifted, as JSON. Nothing is sent anywhere.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

os.environ.update(
    WHYLOGS_NO_ANALYTICS="True", DO_NOT_TRACK="1", TELEMETRY_DISABLED="1", ANALYTICS_OPT_OUT="1"
)


def alibi(reference: Any, observed: Any) -> list[str]:
    """Kolmogorov-Smirnov and chi-squared by column, corrected for their number."""
    from alibi_detect.cd import TabularDrift

    words = [name for name in reference.columns if reference[name].dtype == object]
    for name in words:
        known = {word: place for place, word in enumerate(sorted(reference[name].unique()))}
        for one in (reference, observed):
            one[name] = one[name].map(known).fillna(len(known))
    places = {reference.columns.get_loc(name): None for name in words}
    found = TabularDrift(
        reference.to_numpy(dtype="float64"), p_val=0.05, categories_per_feature=places
    ).predict(observed.to_numpy(dtype="float64"), drift_type="feature")["data"]
    return [
        name for name, p in zip(reference.columns, found["p_val"], strict=True)
        if p <= found["threshold"]
    ]  # fmt: skip


def evidently(reference: Any, observed: Any) -> list[str]:
    """The preset for data drift."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    told = json.loads(Report([DataDriftPreset()]).run(observed, reference).json())
    found = []
    for metric in told["metrics"]:
        config = metric.get("config", {})
        column, value = config.get("column"), metric.get("value")
        if column is None or not isinstance(value, float):
            continue
        limit = config.get("threshold") or 0.1
        by_p_value = "p_value" in str(config.get("method", ""))
        if (value < limit) if by_p_value else (value >= limit):
            found.append(column)
    return found


def whylogs(reference: Any, observed: Any) -> list[str]:
    """Profiles of both, and its own drift scores of them."""
    import whylogs as why
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    views = [why.log(pandas=one).profile().view() for one in (observed, reference)]
    scores = calculate_drift_scores(
        target_view=views[0], reference_view=views[1], with_thresholds=True
    )
    return [
        name for name, score in scores.items()
        if (score and str(score.get("drift_category")) == "DriftCategory.DRIFT")
        or (score and score.get("drift_category") == "DRIFT")
    ]  # fmt: skip


def main() -> None:
    """Read, report, print."""
    import pandas as pd

    name, before, now = sys.argv[1:4]
    # Imports are not timed; reading the files is, as it is with ours.
    __import__({"alibi": "alibi_detect.cd", "evidently": "evidently", "whylogs": "whylogs"}[name])
    started = time.perf_counter()
    used = time.process_time()
    columns = {"alibi": alibi, "evidently": evidently, "whylogs": whylogs}[name](
        pd.read_parquet(before), pd.read_parquet(now)
    )
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "processor": time.process_time() - used,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "drifted": columns,
            }
        )
    )


if __name__ == "__main__":
    main()

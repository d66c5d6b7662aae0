"""NannyML's CBPE over Parquet files.

Argument: a folder with ``reference.parquet`` and ``analysis.parquet`` (score, predicted, and in
the reference label). ``estimate`` fits on the one and estimates the other in chunks of a size.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "features" / "peers"))

import pandas as pd
from answering import answer
from nannyml import CBPE, __version__
from nannyml.chunk import SizeBasedChunker

warnings.filterwarnings("ignore")
FOLDER = Path(sys.argv[1])
METRICS = {"roc_auc": "auc", "average_precision": "average_precision", "f1": "f1",
           "precision": "precision", "recall": "recall", "accuracy": "accuracy"}  # fmt: skip


def estimate(chunk: int) -> dict[str, Any]:
    """Estimates by figure and chunk, with the seconds that fitting and estimating took."""
    reference = pd.read_parquet(FOLDER / "reference.parquet")
    analysis = pd.read_parquet(FOLDER / "analysis.parquet")
    started = time.process_time()
    estimator = CBPE(
        metrics=list(METRICS), y_pred_proba="score", y_pred="predicted", y_true="label",
        problem_type="classification_binary", chunker=SizeBasedChunker(chunk_size=chunk),
    )  # fmt: skip
    estimator.fit(reference)
    fitted = time.process_time()
    found = estimator.estimate(analysis).filter(period="analysis").to_df()
    ended = time.process_time()
    return {
        "figures": {
            ours: [float(value) for value in found[(theirs, "value")]]
            for theirs, ours in METRICS.items()
        },
        "seconds": ended - started,
        "estimating": ended - fitted,
        "calibrated": bool(estimator.needs_calibration),
        "version": __version__,
    }


if __name__ == "__main__":
    answer({"estimate": estimate})

from __future__ import annotations

import numpy as np
import pytest

from falaj.models.model import Statistics
from falaj.models.reference import statistics_of
from falaj.training.encoding import EncodedFeature, Encoding

ENCODING = Encoding(features=(EncodedFeature(name="a"),))
ROWS = np.linspace(0, 1, 1_000, dtype=np.float32).reshape(-1, 1)
SCORES = np.linspace(0, 1, 1_000)


def test_labels_are_kept_as_counts_on_the_bins_of_the_score() -> None:
    labels = (SCORES > 0.5).astype(float)
    kept = statistics_of(ENCODING, ROWS, SCORES, labels)
    assert kept.positives is not None
    assert kept.score_totals is not None
    assert sum(kept.positives) == 500
    assert sum(kept.positives[:32]) == 0
    assert sum(kept.score_totals) == pytest.approx(500)
    assert len(kept.positives) == len(kept.scores.counts)
    assert Statistics.model_validate_json(kept.model_dump_json()) == kept


def test_without_labels_of_0_and_1_there_are_no_counts_of_them() -> None:
    for labels in (None, np.full(1_000, 2.0), np.full(1_000, np.nan), np.zeros(3)):
        kept = statistics_of(ENCODING, ROWS, SCORES, labels)
        assert kept.positives is None
        assert kept.score_totals is None


def test_a_bundle_of_before_is_read() -> None:
    kept = statistics_of(ENCODING, ROWS, SCORES, (SCORES > 0.5).astype(float))
    document = kept.model_dump(exclude={"positives", "score_totals"})
    assert Statistics.model_validate(document).positives is None

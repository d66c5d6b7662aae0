"""Sample-ratio mismatch, by a published example and by its errors."""

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.allocation import is_mismatched, mismatch_evidence, mismatch_p_value


def test_kohavis_example_has_the_p_value_that_he_gives():
    # Kohavi, Tang and Xu, Trustworthy Online Controlled Experiments (2020), chapter 3.
    assert mismatch_p_value([821_588, 815_482], [1, 1]) == pytest.approx(1.8e-6, rel=0.05)
    assert is_mismatched([821_588, 815_482], [0.5, 0.5])


def test_right_shares_are_seldom_ever_called_wrong():
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(1_000):
        seen = np.cumsum(rng.multinomial(100, [0.9, 0.1], size=100), axis=0)
        wrong += any(is_mismatched(row, [0.9, 0.1], alpha=0.05) for row in seen)
    assert wrong / 1_000 <= 0.06


def test_a_loss_of_five_percent_of_one_variant_is_found():
    rng = np.random.default_rng(2)
    lost = np.array([0.5, 0.475]) / 0.975
    seen = rng.multinomial(60_000, lost)
    assert is_mismatched(seen, [0.5, 0.5])


def test_before_any_unit_there_is_no_evidence():
    assert mismatch_evidence([0, 0, 0], [1, 1, 2]) == pytest.approx(0)
    assert mismatch_p_value([0, 0], [1, 1]) == 1.0


@pytest.mark.parametrize(
    ("counts", "shares"), [([1], [1]), ([1, 2], [1]), ([1, 2], [1, 0]), ([-1, 2], [1, 1])]
)
def test_counts_that_do_not_fit_the_shares_are_refused(counts, shares):
    with pytest.raises(InvalidInput):
        mismatch_p_value(counts, shares)

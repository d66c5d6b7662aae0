"""Group sequential bounds against published tables and simulation."""

import math

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.rollouts.groupsequential import (
    fixed_power,
    obrien_fleming_design,
    pocock_design,
    spending_design,
    spent,
)

FIFTHS = [0.2, 0.4, 0.6, 0.8, 1.0]


def test_spending_as_obrien_fleming_gives_the_bounds_of_lan_and_demets():
    # Reboussin, DeMets, Kim and Lan (Controlled Clinical Trials 21, 2000), five equal looks.
    design = spending_design(FIFTHS)
    assert design.bounds == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=6e-4)


def test_spending_as_pocock_gives_the_bounds_of_lan_and_demets():
    # The same program's table for the Pocock-like function.
    design = spending_design(FIFTHS, spending="pocock")
    assert design.bounds == pytest.approx([2.438, 2.427, 2.410, 2.397, 2.386], abs=1e-3)


@pytest.mark.parametrize(
    ("looks", "constant"), [(2, 2.178), (3, 2.289), (4, 2.361), (5, 2.413), (10, 2.555)]
)
def test_pococks_bound_is_the_one_that_he_printed(looks, constant):
    # Jennison and Turnbull, Group Sequential Methods (2000), table 2.1, alpha 0.05.
    assert pocock_design(looks).bounds == pytest.approx([constant] * looks, abs=6e-4)


@pytest.mark.parametrize(
    ("looks", "constant"), [(2, 1.977), (3, 2.004), (4, 2.024), (5, 2.040), (10, 2.087)]
)
def test_obrien_and_flemings_bound_is_the_one_that_was_printed(looks, constant):
    # Jennison and Turnbull (2000), table 2.3, alpha 0.05.
    bounds = obrien_fleming_design(looks).bounds
    assert bounds[-1] == pytest.approx(constant, abs=6e-4)
    assert bounds[0] == pytest.approx(constant * math.sqrt(looks), abs=2e-3)


@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
@pytest.mark.parametrize("looks", [1, 7, 100])
def test_all_looks_together_have_the_error_that_was_stated(spending, looks):
    design = spending_design([k / looks for k in range(1, looks + 1)], spending=spending)
    assert sum(design.crossing()) == pytest.approx(0.05, abs=1e-5)
    assert design.power(0.0) == pytest.approx(0.05, abs=1e-5)


def test_one_look_is_the_ordinary_test():
    design = spending_design([1.0])
    assert design.bounds == pytest.approx([1.959964], abs=1e-5)
    assert design.power(2.8) == pytest.approx(fixed_power(2.8), abs=1e-6)


def test_looks_at_odd_times_keep_the_error():
    design = spending_design([0.03, 0.11, 0.5, 0.52, 0.97, 1.0])
    assert sum(design.crossing()) == pytest.approx(0.05, abs=1e-5)


def test_power_and_expected_size_are_those_of_simulated_walks():
    design, drift = spending_design(FIFTHS), 3.3
    rng = np.random.default_rng(5)
    steps = rng.normal(drift * 0.2, math.sqrt(0.2), size=(100_000, 5))
    z = np.cumsum(steps, axis=1) / np.sqrt(FIFTHS)
    out = np.abs(z) >= np.array(design.bounds)
    used = np.where(out.any(axis=1), np.array(FIFTHS)[out.argmax(axis=1)], 1.0)
    assert design.power(drift) == pytest.approx(out.any(axis=1).mean(), abs=0.004)
    assert design.expected_information(drift) == pytest.approx(used.mean(), abs=0.004)


def test_looking_costs_little_power_and_saves_a_third_of_the_sample():
    drift = 3.39  # the fixed test has 92.6 %
    design = spending_design([k / 100 for k in range(1, 101)])
    assert fixed_power(drift) == pytest.approx(0.924, abs=0.004)
    assert design.power(drift) >= 0.90
    assert design.expected_information(drift) <= 0.70


def test_what_may_be_spent_grows_from_nothing_to_all():
    for spending in ("obrien_fleming", "pocock"):
        values = [spent(spending, 0.05, t) for t in np.linspace(0, 1, 50)]
        assert values[0] == 0
        assert values == sorted(values)
        assert values[-1] == pytest.approx(0.05)
        assert spent(spending, 0.05, 2.0) == pytest.approx(0.05)


@pytest.mark.parametrize("looks", [[], [0.0, 1.0], [0.5, 0.5], [0.5, 0.2], [0.5, 1.2]])
def test_looks_that_do_not_grow_are_refused(looks):
    with pytest.raises(InvalidInput):
        spending_design(looks)

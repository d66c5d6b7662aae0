"""Units of tests: what they meet, what they do, and when."""

from datetime import UTC, datetime, timedelta

import numpy as np

START = datetime(2026, 5, 4, 8, tzinfo=UTC)  # as in the fixtures
HOUR = timedelta(hours=1)
FEW, HALF = {"champion": 0.99, "new": 0.01}, {"champion": 0.5, "new": 0.5}


def half(n, *, seed=0):
    """Units, and the variants that they meet, each with the same chance."""
    rng = np.random.default_rng(seed)
    return [f"u{k}" for k in range(n)], rng.choice(["champion", "new"], n).tolist()


def converted(variants, rates, seed=1):
    rng = np.random.default_rng(seed)
    return (rng.random(len(variants)) < [rates[one] for one in variants]).astype(float).tolist()


def minute(k):
    return START + timedelta(minutes=k)


def everybody_back(ground, n, shares=(0.01, 0.5), bounds=(0, 60)):
    """The same units are seen in each stretch; what they meet there, and when."""
    units, places = [f"u{k}" for k in range(n)], np.random.default_rng(16).random(n)
    met = []
    for share, bound in zip(shares, bounds, strict=True):
        met.append(np.where(places < share, "new", "champion"))
        ground.predicted(units, met[-1].tolist(), minute(bound + 1))
    return units, met

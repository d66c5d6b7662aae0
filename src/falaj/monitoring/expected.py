"""Performance that is to be expected of scores whose labels are not known yet.

If a score is turned into the probability that the label is 1, then scores alone tell how many
of the rows above a threshold are expected to be right: the expected confusion matrix, and from
it every figure that is made of one (confidence-based performance estimation, CBPE, as in
NannyML). It holds as long as rows of one score have label 1 as often as they had on the
reference; it sees that the scores have moved, not that the world behind them has
(concept drift): for that there are labels that arrive late.

Rows of one score, or the bins of a sketch, are *groups*: nothing here costs more than their
number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.isotonic import Rising

Vector = NDArray[np.float64]

FIGURES = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "auc",
    "average_precision",
    "log_loss",
    "brier",
    "positive_rate",
)
"""What is estimated."""
LOSSES = frozenset({"log_loss", "brier", "mae", "rmse"})
"""Those figures of which less is better."""
LEAST_ROWS = 20
"""Of so few rows or more something is told. Simulated with scores around 3, 10 and 50 % (120 times
each, 95 % bands): with 10 rows the band of the average precision holds in 46, 71 and 94 % of cases,
and one row's score shows through a loss; with 20 all others hold in 92 % and more."""
LEAST_OF_EACH = 5.0
"""Of so many expected labels 1 and 0 figures are told that are shares of one class. With 3 the band
of the average precision held in 82 % of cases, with 5 to 10 in 88 to 96."""
OF_A_CLASS = ("recall", "auc", "average_precision")
"""Figures that are shares of the rows of one class."""
DRAWS = 200
"""Of labels, from which the bands' widths are told."""
_SEED = 7
_MOST_KEPT = 4_096
"""Groups of rows that a curve keeps of its reference."""
_LEAST_PROBABILITY = 1e-15
_SPLITS, _TESTED, _ERROR_BINS = 10, 0.1, 10
_FEWEST = 20
_P_VALUE = 0.05


@dataclass(frozen=True)
class Labelled:
    """Rows of growing scores, in groups.

    Attributes:
        scores: the (mean) score of each group.
        n, ones: its rows and labels 1.
    """

    scores: Vector
    n: Vector
    ones: Vector

    def fewer(self, most: int = _MOST_KEPT) -> Labelled:
        """At most so many groups."""
        if len(self.n) <= most:
            return self
        firsts = np.arange(most) * len(self.n) // most
        n, ones = (np.add.reduceat(one, firsts) for one in (self.n, self.ones))
        return Labelled(np.add.reduceat(self.scores * self.n, firsts) / n, n, ones)


@dataclass(frozen=True)
class Curve:
    """How often each score had label 1 on the reference; see ``of_rows`` and ``of_bins``.

    Attributes:
        scores, rates: the knots, growing; between them it is a straight line, beyond flat.
        needed: False if the scores came true as they are: then it changes nothing.
        starts: the smallest score of each stretch in which the rate is constant.
        n, ones: rows and labels 1 of each stretch.
        kept: the reference, in groups; none of scores that are known to come true.
    """

    scores: Vector
    rates: Vector
    needed: bool
    starts: Vector
    n: Vector
    ones: Vector
    kept: Labelled | None = None

    def applied(self, scores: Vector) -> Vector:
        """The probabilities of label 1."""
        if not self.needed:
            return np.clip(scores, 0.0, 1.0)
        return np.asarray(np.interp(scores, self.scores, self.rates))

    @classmethod
    def of_rows(cls, scores: Vector, labels: Vector, *, seed: int = 42) -> Curve:
        """The isotonic regression of labels on scores; it changes nothing unless it has to.

        It has to if, on rows that it was not fitted on (ten random tenths), it makes the
        expected calibration error smaller, as NannyML decides.

        Args:
            scores, labels: of the reference, at least 20 rows of both classes.

        Raises:
            InvalidInput: they are fewer, or a label is neither 0 nor 1.
        """
        scores, labels = check_reference(scores, labels)
        order = np.argsort(scores)
        s, y = scores[order], labels[order]
        rising = Rising(s, np.ones_like(s), y)
        fit, needed = rising.fit(), _helps(rising, s, y, seed)
        kept = Labelled(s, np.ones_like(s), y).fewer()
        return cls(fit.scores, fit.rates, needed, fit.starts, fit.n, fit.ones, kept)

    @classmethod
    def of_bins(cls, means: Vector, n: Vector, ones: Vector) -> Curve:
        """The isotonic regression of the rates of bins on their mean scores.

        It changes nothing unless the bins' rates differ from their mean scores by more than
        chance (chi-squared on the bins, at 5 %).

        Args:
            means: the mean score of each bin, growing; of an empty one anything.
            n, ones: rows and labels 1 of each bin.

        Raises:
            InvalidInput: there are fewer than 20 rows, or one class only.
        """
        _check_enough(float(n.sum()), float(ones.sum()))
        there = n > 0
        means, n, ones = means[there], n[there], ones[there]
        fit, needed = Rising(means, n, ones).fit(), miscalibrated(means, n, ones) < _P_VALUE
        kept = Labelled(means, n, ones).fewer()
        return cls(fit.scores, fit.rates, needed, fit.starts, fit.n, fit.ones, kept)

    def optimism(self, threshold: float) -> dict[str, float]:
        """By how much each figure that is told of the reference is greater than it came.

        An isotonic regression is the projection of the labels on all growing functions: with any
        of these it goes at least as much together as the labels do (Robertson, Wright and
        Dykstra, Order Restricted Statistical Inference, 1988, chapter 1). So scores seem to tell
        labels apart better than they did, and chance has it so on any reference. Of a mean over
        rows this is, on average over references, what is told of other rows of such scores in
        error: the labels' own chance has the mean 0 in it. 0 where the curve changes nothing.
        """
        if not self.needed or self.kept is None:
            return dict.fromkeys(FIGURES, 0.0)
        scores, n = self.kept.scores, self.kept.n
        above = (scores >= threshold).astype(float)
        groups = Groups(scores, n, self.applied(scores), above, np.zeros_like(n), threshold)
        came = figures(groups, self.kept.ones)
        return {
            name: float(np.nan_to_num(value - came[name]))
            for name, value in expected(groups).items()
        }

    def off(self, scores: Vector) -> Vector:
        """How much the probabilities of these scores may be off, since the reference is finite.

        Of shape (DRAWS, scores): from the posterior of each stretch's rate (Jeffreys' prior).
        """
        return np.asarray(self.drawn_off[:, self.stretches(scores)])

    def stretches(self, scores: Vector) -> NDArray[np.int64]:
        """The place of the stretch that each score lies in."""
        return np.clip(np.searchsorted(self.starts, scores, side="right") - 1, 0, None)

    @cached_property
    def drawn_off(self) -> Vector:
        """As ``off``, of each stretch: (DRAWS, stretches)."""
        random = np.random.default_rng(_SEED)
        alpha, beta = self.ones + 0.5, self.n - self.ones + 0.5
        drawn = random.beta(alpha, beta, size=(DRAWS, len(alpha)))
        return np.asarray(drawn - alpha / (alpha + beta))


@dataclass(frozen=True)
class Groups:
    """Rows without labels, as groups of growing scores.

    Attributes:
        scores: the (mean) score of each group.
        n: its rows.
        rates: the probability of label 1.
        above: the share of its rows at the threshold or above.
        spread: how much the rate grows within the group (0 if its rows have one score).
        threshold: a score from here on predicts label 1.
    """

    scores: Vector
    n: Vector
    rates: Vector
    above: Vector
    spread: Vector
    threshold: float

    @classmethod
    def of_rows(cls, curve: Curve, scores: Vector, threshold: float) -> Groups:
        """Each row is a group."""
        s = np.sort(scores)
        above = (s >= threshold).astype(float)
        return cls(s, np.ones_like(s), curve.applied(s), above, np.zeros_like(s), threshold)

    @classmethod
    def of_bins(
        cls, curve: Curve, edges: Vector, n: Vector, totals: Vector, threshold: float
    ) -> Groups:
        """The bins of a score.

        A bin that holds the threshold is cut as if its rows were spread evenly over it, and
        rows within a bin are ordered as the curve rises in it.

        Args:
            edges: between bins, growing.
            n, totals: rows of each bin, and the sum of their scores.
        """
        lows = np.concatenate(([0.0], edges))
        highs = np.concatenate((edges, [max(1.0, float(edges[-1]) if len(edges) else 1.0)]))
        there = n > 0
        lows, highs, n = lows[there], highs[there], n[there].astype(np.float64)
        means = np.clip(totals[there] / n, lows, highs)
        width = np.maximum(highs - lows, 1e-300)
        above = np.clip((highs - threshold) / width, 0.0, 1.0)
        spread = curve.applied(highs) - curve.applied(lows)
        return cls(means, n, curve.applied(means), above, spread, threshold)

    def coarser(self, most: int = 32) -> Groups:
        """At most so many groups, of nearly equal numbers of rows, cut at the threshold."""
        if len(self.n) <= most:
            return self
        before = np.cumsum(self.n) - self.n
        places = np.minimum((before * most / self.n.sum()).astype(np.int64), most - 1)
        places = places * 2 + (self.above > 0.5)
        _, places = np.unique(places, return_inverse=True)
        n = np.bincount(places, weights=self.n).astype(np.float64)
        means = [
            np.bincount(places, weights=self.n * values) / n
            for values in (self.scores, self.rates, self.above)
        ]
        return Groups(means[0], n, means[1], means[2], np.zeros_like(n), self.threshold)


def expected(groups: Groups) -> dict[str, float]:
    """The expected figures by name; NaN where one is not defined (no positive, no negative)."""
    found = figures(groups, groups.n * groups.rates)
    return {name: float(value) for name, value in found.items()}


def figures(groups: Groups, ones: Vector) -> dict[str, Any]:
    """The figures of groups with so many labels 1, of shape (..., groups).

    Of shape (...). The AUC counts pairs within a group as half in order, and more where the
    rate grows within it; the average precision takes a group's rows in random order.
    """
    n, above, scores = groups.n, groups.above, groups.scores
    rows = n.sum()
    zeros = n - ones
    positive, negative = ones.sum(-1), zeros.sum(-1)
    hits, false = (ones * above).sum(-1), (zeros * above).sum(-1)
    missed = positive - hits
    s = np.clip(scores, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.cumsum(zeros, axis=-1) - zeros / 2
        # Of two rows of a group, s > t, the first is right more often by c(s) - c(t); over
        # evenly spread rows that adds n² spread / 12 pairs in order.
        within = (n * n * groups.spread / 12).sum()
        return {
            "accuracy": (hits + negative - false) / rows,
            "precision": hits / (hits + false),
            "recall": hits / positive,
            "f1": 2 * hits / (2 * hits + false + missed),
            "auc": ((ones * below).sum(-1) + within) / (positive * negative),
            "average_precision": _average_precision(n, ones) / positive,
            "log_loss": -(ones * np.log(s) + zeros * np.log1p(-s)).sum(-1) / rows,
            "brier": (ones * (1 - scores) ** 2 + zeros * scores**2).sum(-1) / rows,
            "positive_rate": positive / rows,
        }


def told(groups: Groups) -> tuple[frozenset[str], str]:
    """The figures that so few rows can tell, and why not all; the text is empty if they can."""
    rows = float(groups.n.sum())
    if why := too_few(rows):
        return frozenset(), why
    ones = float((groups.n * groups.rates).sum())
    fewer, label = min((ones, 1), (rows - ones, 0))
    if fewer >= LEAST_OF_EACH:
        return frozenset(FIGURES), ""
    why = (
        f"{', '.join(OF_A_CLASS)}: {fewer:.1f} rows of label {label} are expected, too few: at "
        f"least {LEAST_OF_EACH:g} tell something."
    )
    return frozenset(FIGURES) - frozenset(OF_A_CLASS), why


def too_few(rows: float) -> str:
    """Why so few rows tell nothing; empty if they are enough."""
    if rows >= LEAST_ROWS:
        return ""
    return f"{rows:.0f} rows are too few: at least {LEAST_ROWS} tell something."


def estimated(
    curve: Curve, groups: Groups, confidence: float
) -> dict[str, tuple[float, float, float]]:
    """For each figure its estimate, and between what limits the realised one should lie.

    The width of the band comes from a simulation: labels are drawn from the probabilities, and
    those from what the reference leaves open. On one side the band is wider by what the curve
    flatters its own reference (``Curve.optimism``), which the estimate has in it. While what the
    reference tells still holds, the realised figure of these rows lies in the band in about the
    given share of cases.

    Returns:
        (estimate, low, high) by name; NaN where a figure is not defined.
    """
    random = np.random.default_rng(_SEED)
    coarse = groups.coarser()
    n = np.rint(coarse.n).astype(np.int64)
    rates = np.clip(coarse.rates + curve.off(coarse.scores), 0.0, 1.0)
    drawn = figures(coarse, random.binomial(n, rates).astype(np.float64))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    optimism = curve.optimism(groups.threshold)
    found = {}
    for name, estimate in expected(groups).items():
        values = drawn[name]
        known = values[np.isfinite(values)]
        if len(known) < DRAWS / 2 or not np.isfinite(estimate):
            found[name] = (estimate, float("nan"), float("nan"))
            continue
        half, off = z * float(known.std(ddof=1)), optimism[name]
        low, high = estimate - half - max(off, 0.0), estimate + half - min(off, 0.0)
        most = np.inf if name == "log_loss" else 1.0
        found[name] = (estimate, max(0.0, low), min(most, high))
    return found


def miscalibrated(means: Vector, n: Vector, ones: Vector) -> float:
    """The p-value that bins with these mean scores have labels 1 as often as they say.

    Pearson's chi-squared over the bins, both classes, with one degree of freedom for each bin,
    since no parameter was fitted (Hosmer and Lemeshow, Applied Logistic Regression, 2000,
    chapter 5.2.2, for rows that the model was not fitted on). Neighbours are joined until
    each has five rows of both classes to be expected.
    """
    from scipy.special import chdtrc

    statistic, freedom = 0.0, 0
    expected_ones = expected_zeros = seen = 0.0
    for mean, rows, positive in zip(means.tolist(), n.tolist(), ones.tolist(), strict=True):
        expected_ones += rows * mean
        expected_zeros += rows * (1 - mean)
        seen += positive
        if min(expected_ones, expected_zeros) < 5:
            continue
        gap = seen - expected_ones
        statistic += gap * gap * (1 / expected_ones + 1 / expected_zeros)
        freedom += 1
        expected_ones = expected_zeros = seen = 0.0
    if not freedom:
        return 1.0
    return float(chdtrc(freedom, statistic))


def check_reference(scores: Vector, labels: Vector) -> tuple[Vector, Vector]:
    """Scores and labels of a reference, those with both; raises InvalidInput as ``of_rows``."""
    known = np.isfinite(scores) & ~np.isnan(labels)
    scores, labels = scores[known], labels[known]
    if not np.isin(labels, (0.0, 1.0)).all():
        raise InvalidInput(
            "A label of the reference is neither 0 nor 1.",
            hint="Give a boolean column, or 0 and 1; null while the label is not known.",
        )
    _check_enough(float(len(labels)), float(labels.sum()))
    return scores, labels


def _check_enough(n: float, ones: float) -> None:
    if n < _FEWEST or not 0 < ones < n:
        raise InvalidInput(
            f"A reference of {n:.0f} labelled rows with {ones:.0f} of label 1 says too little.",
            hint=f"At least {_FEWEST} rows of both classes are needed.",
        )


def _helps(rising: Rising, s: Vector, y: Vector, seed: int) -> bool:
    """True if an isotonic regression makes the calibration error on other rows smaller."""
    random = np.random.default_rng(seed)
    raw, calibrated, truth = [], [], []
    for _ in range(_SPLITS):
        tested = random.random(len(s)) < _TESTED
        if not tested.any() or tested.all():
            continue
        fit, scores = rising.fit(tested), s[tested]
        raw.append(scores)
        calibrated.append(np.interp(scores, fit.scores, fit.rates))
        truth.append(y[tested])
    if not truth:
        return False
    labels = np.concatenate(truth)
    before = _calibration_error(np.concatenate(raw), labels)
    return before > _calibration_error(np.concatenate(calibrated), labels)


def _calibration_error(scores: Vector, labels: Vector) -> float:
    parts = np.array_split(np.argsort(scores, kind="stable"), _ERROR_BINS)
    gaps = [abs(scores[one].sum() - labels[one].sum()) for one in parts]
    return float(np.sum(gaps)) / len(scores)


def _average_precision(n: Vector, ones: Vector) -> Any:
    """The sum of the precision at each label 1, from the highest score down.

    Within a group of n rows behind m others with t labels 1, the k-th row is 1 with the rate
    c = ones/n and the precision there is (t + kc)/(m + k), so that they sum up to
    c (cn + (t - cm)(H(m + n) - H(m))), H the harmonic numbers.
    """
    from scipy.special import digamma

    rows, hits = n[::-1], ones[..., ::-1]
    behind = np.cumsum(rows)
    ahead = behind - rows
    harmonic = digamma(behind + 1) - digamma(ahead + 1)
    earlier = np.cumsum(hits, axis=-1) - hits
    rate = hits / rows
    return (rate * (hits + (earlier - rate * ahead) * harmonic)).sum(-1)

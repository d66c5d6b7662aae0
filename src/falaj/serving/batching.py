"""How many rows to score in one run, where, and whether it pays to wait for more.

Nothing here is guessed: ``Costs`` learns from each run what a run and a row cost, and
``Linger`` switches waiting on only where it was measured to answer more rows a second.
"""

from __future__ import annotations

_FORGET = 0.98
"""A run weighs so much less for each run behind it: about the last fifty count."""


_MOST_ROWS = 1 << 20
"""So many rows are said to fit where a row costs next to nothing."""


class Costs:
    """The seconds that a run of n rows takes, learned as ``fixed + n * per_row``.

    Weighted least squares over the last runs; where all runs had the same number of rows,
    all of it is told as cost of the rows.
    """

    __slots__ = ("_n", "_nn", "_nt", "_t", "_w", "fixed", "n_runs", "per_row")

    def __init__(self) -> None:
        self._w = self._n = self._nn = self._t = self._nt = 0.0
        self.fixed = 0.0
        """Seconds that a run costs without its rows."""
        self.per_row = 0.0
        self.n_runs = 0

    def saw(self, n_rows: int, seconds: float) -> None:
        """Learn from a run."""
        self.n_runs += 1
        w = self._w = self._w * _FORGET + 1.0
        n = self._n = self._n * _FORGET + n_rows
        nn = self._nn = self._nn * _FORGET + n_rows * n_rows
        t = self._t = self._t * _FORGET + seconds
        nt = self._nt = self._nt * _FORGET + n_rows * seconds
        spread = w * nn - n * n
        slope = (w * nt - n * t) / spread if spread > 0.01 * n * n else t / n
        self.per_row = min(max(slope, 0.0), t / n)
        self.fixed = max((t - self.per_row * n) / w, 0.0)

    def expected(self, n_rows: int) -> float:
        """The seconds that a run of so many rows will take; 0 before the first run."""
        return self.fixed + self.per_row * n_rows

    def rows_within(self, seconds: float) -> int:
        """The most rows whose run ends within so many seconds; at least one."""
        if self.per_row <= 0:
            return _MOST_ROWS
        # Of a cost near 0 the quotient is infinite.
        rows = (seconds - self.fixed) / self.per_row
        return int(min(max(rows, 1.0), _MOST_ROWS))


class Linger:
    """Decides how long a lane waits for more rows before a run.

    Waiting pays only where a run costs much beside its rows, and callers come back together:
    then a run of many costs little more than a run of one. So it is tried now and then, for
    a moment, and kept only while it answers at least a tenth more rows a second than not
    waiting did in the moment before. Where a run costs little, it is never tried.

    Args:
        least_fixed: seconds of a run's fixed cost below which nothing is tried.
        epoch: seconds of one measurement.
        rest: seconds between two trials.
    """

    GAIN = 1.1

    def __init__(
        self, *, least_fixed: float = 0.0003, epoch: float = 0.25, rest: float = 10.0
    ) -> None:
        self._least_fixed = least_fixed
        self._epoch = epoch
        self._rest = rest
        self._since = 0.0
        self._rows = 0
        self._runs = 0
        self._trial = False
        self._before = 0.0
        self._next_trial = 0.0
        self.on = False
        """True if waiting is what answers more at present."""

    def seconds(self, costs: Costs) -> float:
        """How long to wait now; 0 almost always."""
        if costs.fixed < self._least_fixed or self.on == self._trial:
            return 0.0
        return min(costs.fixed / 4, 0.01)

    def saw(self, n_rows: int, costs: Costs, now: float) -> None:
        """Learn from a run that ended at ``now`` (seconds of any clock)."""
        self._rows += n_rows
        self._runs += 1
        passed = now - self._since
        if passed < self._epoch:
            return
        rate, crowded = self._rows / passed, self._rows > self._runs
        stale = passed > 4 * self._epoch  # there was a pause: the rate says nothing
        self._since, self._rows, self._runs = now, 0, 0
        if costs.fixed < self._least_fixed:
            self.on = self._trial = False
        elif self._trial:
            self._trial = False
            self._next_trial = now + self._rest
            if not stale:
                self._judge(rate)
        elif crowded and not stale and now >= self._next_trial:
            self._before = rate
            self._trial = True

    def _judge(self, rate: float) -> None:
        """A trial has ended: it tried the other way of what is on."""
        if self.on:
            self.on = self._before >= self.GAIN * rate
        else:
            self.on = rate >= self.GAIN * self._before

"""Contracts of a table, held to each event by itself.

What one row can break is checked: not null, between, one of a set, matching, a foreign
key, an expression. What only many rows can break (unique, freshness, row count) is checked
by loads. A violation of severity ``warn`` is let through; of the others the row is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime

import pyarrow as pa

from falaj.ingest.checks import Severity, TableCheck, Unique
from falaj.ingest.contracts import JUDGED, Lookup, judge
from falaj.ingest.model import Contract
from falaj.ingest.typing import RAW, ROWS, Bench, bench


class RowContracts:
    """The row checks of some contracts, compiled once. Safe from many threads.

    Args:
        contracts: all of one table.
        lookup: reads the tables that foreign keys name.
    """

    def __init__(self, contracts: Sequence[Contract], lookup: Lookup) -> None:
        self.contracts = [one for one in map(_by_row, contracts) if one is not None]
        self._lookup = lookup
        self._lock = threading.Lock()
        self._bench: AbstractContextManager[Bench] | None = None
        self._engine: Bench | None = None

    def broken(self, rows: pa.Table, now: datetime) -> list[tuple[int, str]]:
        """The rows that break a check: their number from 0, and which checks.

        Raises:
            InvalidInput: a check names a column or a table that there is not.
        """
        if not self.contracts or not rows.num_rows:
            return []
        numbered = rows.append_column("_row", pa.array(range(rows.num_rows), pa.int64()))
        with self._lock:
            engine = self._opened()
            engine.register(RAW, numbered)
            engine.execute(f"CREATE OR REPLACE TEMP VIEW {ROWS} AS SELECT * FROM {RAW}")
            try:
                judgement = judge(
                    engine, self.contracts, now=now, lookup=self._lookup, show_values=False
                )
            finally:
                engine.execute(f"DROP TABLE IF EXISTS {JUDGED}")
                engine.unregister(RAW)
        return judgement.set_aside

    def _opened(self) -> Bench:
        if self._engine is None:
            self._bench = bench(threads=1)
            self._engine = self._bench.__enter__()
        return self._engine


def _by_row(contract: Contract) -> Contract | None:
    checks = tuple(
        check.model_copy(update={"severity": Severity.QUARANTINE})
        for check in contract.checks
        if not isinstance(check, Unique | TableCheck) and check.severity is not Severity.WARN
    )
    return contract.model_copy(update={"checks": checks}) if checks else None

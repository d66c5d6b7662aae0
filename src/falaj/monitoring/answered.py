"""Which rows of a prediction log were answers: what all that reads the log reads it by.

A shadow is scored behind the answer, and told nobody anything: it says nothing of what an
endpoint answered, of its inputs or of its model. Only who compares shadows reads their rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.lake.ports import Lake


def answered(lake: Lake, table: str) -> tuple[str, tuple[str, ...]]:
    """The SQL condition of the rows that were answers, and the columns that it reads.

    Logs that are older than shadows have no such column, and no such rows.
    """
    if "shadow" not in lake.schema(table).names:
        return "TRUE", ()
    return "shadow IS NOT TRUE", ("shadow",)

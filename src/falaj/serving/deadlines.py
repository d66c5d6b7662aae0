"""Deadlines that come with a request: how long its sender still waits for the answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from falaj.serving.errors import BadRequest, DeadlineExceeded

if TYPE_CHECKING:
    from falaj.serving.front import Request

HEADER = b"falaj-deadline-ms"
"""Milliseconds that the sender still waits, counted from when it sent the request."""
_LONGEST = 12


def deadline_of(request: Request) -> float | None:
    """The instant (``time.perf_counter()``) beyond which nobody waits; None if it names none.

    A caller that has a deadline of its own sends what is left of it; the endpoint's own
    deadline holds all the same.

    Raises:
        BadRequest: the header is no number of milliseconds.
        DeadlineExceeded: that instant has passed.
    """
    text = request.headers.get(HEADER)
    if text is None:
        return None
    digits = text.strip()
    whole, _, part = digits.lstrip(b"-").partition(b".")
    if len(digits) > _LONGEST or not whole.isdigit() or (part and not part.isdigit()):
        raise BadRequest(
            f"The header {HEADER.decode()} is {digits[:40].decode('latin-1')!r}, which is no "
            "number of milliseconds.",
            hint="Send what is left of your own deadline, such as 250.",
        )
    until = request.started + float(digits) / 1000
    if until <= time.perf_counter():
        raise DeadlineExceeded(
            f"The deadline of the request had passed before it was looked at "
            f"({HEADER.decode()}: {digits.decode()}).",
            hint="Nobody waits for the answer any more; send it with more time.",
        )
    return until

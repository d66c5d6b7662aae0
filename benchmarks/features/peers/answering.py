"""The peer's side: one JSON object a line in, one out."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def answer(works: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer until the input ends."""
    out = sys.stdout
    sys.stdout = sys.stderr  # what libraries print must not stand between answers
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            told = works[asked.pop("work")](**asked)
        except Exception:
            told = {"error": traceback.format_exc(limit=-4)}
        print(json.dumps(told), file=out, flush=True)

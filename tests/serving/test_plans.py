from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.errors import Corrupt
from falaj.serving.plans import Plans
from falaj.serving.routing import RoutingTable


class Body:
    """What a request holds."""


def test_a_release_that_cannot_be_loaded_holds_no_request(tmp_path: Path) -> None:
    compiler: Any = None
    plans = Plans(RoutingTable(tmp_path), compiler)
    plans.broken = {"fraud": Corrupt("Its bundle is damaged.")}
    held: list[weakref.ref[Body]] = []

    def asked(body: Body) -> None:
        held.append(weakref.ref(body))
        plans.named("fraud")

    for _ in range(3):
        with pytest.raises(Corrupt, match="damaged"):
            asked(Body())
    gc.collect()
    assert [one() for one in held] == [None] * 3

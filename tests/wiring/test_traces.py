"""Spans of calls through the door, exported by a process of its own."""

from __future__ import annotations

import subprocess
import sys

from falaj.testing.collector import collecting, told

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PROCESS = """
import sys
from falaj.kernel.settings import Settings
from falaj.kernel.telemetry import Telemetry
from falaj.wiring.traces import trace_calls
end = trace_calls(Settings(traces=sys.argv[1], traces_ratio=0.0), "control")
telemetry = Telemetry()
with telemetry.span("models.list", principal="user:amina"):
    pass
with telemetry.within(sys.argv[2]), telemetry.span("models.get", principal="user:amina"):
    pass
end()
"""


def test_calls_of_a_traced_sender_are_spans_of_its_trace_and_others_are_drawn_by_the_ratio() -> (
    None
):
    with collecting() as collector:
        context = f"00-{TRACE}-{PARENT}-01"
        subprocess.run([sys.executable, "-c", PROCESS, collector.url, context], check=True)
        (span,) = collector.named("models.get")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert told(span) == {"principal": "user:amina"}
    assert [one.name for one in collector.spans] == ["models.get"]
    assert collector.resources[0]["service.instance.id"] == "control"

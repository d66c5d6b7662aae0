"""What the version takes to serve: time, memory and bytes, on the hardware that is told."""

from __future__ import annotations

import os
import platform
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.kernel.errors import FalajError
from falaj.models.gating.examined import Examined, Gate, result, skipped
from falaj.models.gating.leakagesigns import sampled
from falaj.models.gating.rules import LatencyRule, MemoryRule

if TYPE_CHECKING:
    from falaj.models.model import GateResult
    from falaj.models.ports import Weighing

_MEGABYTE = 1_000_000
_LEAST_DISTINCT = 1000


def hardware() -> dict[str, Any]:
    """The machine that measures: its processor by name, its kind, and how many cores it has."""
    name = platform.processor() or platform.machine()
    told = Path("/proc/cpuinfo")
    if told.exists():
        lines = told.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return {"processor": name, "machine": platform.machine(), "n_cpus": os.cpu_count() or 1}


def _elsewhere(gate: str, wanted: str | None, found: dict[str, Any]) -> GateResult | None:
    """The failure to give if this is not the hardware that the rule asks for."""
    if wanted is None or fnmatchcase(found["processor"].lower(), wanted.lower()):
        return None
    return result(
        gate,
        False,
        f"measured on {found['processor']}, not on the target {wanted}",
        {"hardware": found, "target": wanted, "hint": "run a worker on the target hardware"},
    )


def latency_gate(rule: LatencyRule) -> Gate:
    """Single distinct rows through the packaged model, on one thread of this machine."""

    def gate(examined: Examined) -> GateResult:
        machine = hardware()
        refused = _elsewhere("latency", rule.hardware, machine)
        if refused is not None:
            return refused
        places = sampled(len(examined.matrix))
        distinct = np.unique(examined.matrix[places], axis=0)
        if len(distinct) < _LEAST_DISTINCT:
            return skipped(
                "latency",
                f"only {len(distinct)} distinct test rows; fewer than 1,000 make a "
                "model look faster than it is",
                {"n_rows": len(distinct)},
            )
        order = np.random.default_rng(7).permutation(len(distinct))[: rule.n_rows]
        taken = examined.scorer.seconds_per_row(distinct[order]) * 1000
        p50, p99 = (float(value) for value in np.quantile(taken, [0.5, 0.99]))
        return result(
            "latency",
            p50 <= rule.p50_ms and p99 <= rule.p99_ms,
            f"p50 {p50:.3f} ms, p99 {p99:.3f} ms, asked ≤ {rule.p50_ms} and ≤ {rule.p99_ms}",
            {
                "p50_ms": p50,
                "p99_ms": p99,
                "n_rows": len(order),
                "limits": rule.model_dump(),
                "hardware": machine,
            },
        )

    return gate


def memory_gate(rule: MemoryRule, weighing: Weighing | None) -> Gate:
    """A fresh process that loads the model and scores rows stays under a limit at its peak."""

    def gate(examined: Examined) -> GateResult:
        machine = hardware()
        refused = _elsewhere("memory", rule.hardware, machine)
        if refused is not None:
            return refused
        if weighing is None:
            return result("memory", False, "nothing here can measure memory", {})
        manifest = examined.bundle.manifest
        rows = np.resize(examined.matrix, (rule.n_rows, examined.matrix.shape[1]))
        names = manifest.signature.encoding.names
        try:
            found = weighing.weighed(
                manifest.model_format, examined.bundle.model, names, rows, examined.target.outputs
            )
        except FalajError as error:  # it may have been killed for the memory that it took
            told = f"a fresh process could not load it and score: {error.message}"
            return result("memory", False, told, {"code": error.code, "hardware": machine})
        peak = found.peak_bytes / _MEGABYTE
        added = (found.peak_bytes - found.before_bytes) / _MEGABYTE
        return result(
            "memory",
            peak <= rule.largest_megabytes,
            f"{peak:.1f} MB at its peak ({added:.1f} MB for the runtime, the model and "
            f"{rule.n_rows} rows), asked ≤ {rule.largest_megabytes}",
            {
                "peak_megabytes": peak,
                "added_megabytes": added,
                "load_seconds": found.load_seconds,
                "limits": rule.model_dump(),
                "hardware": machine,
            },
        )

    return gate


def size_gate(limit: float) -> Gate:
    """All files of the bundle together stay under a limit, in megabytes."""

    def gate(examined: Examined) -> GateResult:
        size = examined.bundle.size / _MEGABYTE
        return result(
            "size",
            size <= limit,
            f"{size:.2f} MB, asked ≤ {limit}",
            {"megabytes": size, "limit": limit},
        )

    return gate

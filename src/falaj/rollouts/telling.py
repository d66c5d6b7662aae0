"""How a rollout stands, for the eyes of a person at a terminal: the answer to that comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.rollouts.model import GuardrailReading, Look, SuccessReading
    from falaj.rollouts.records import Agreement, KeptLook, RolloutStatus, Run

_NOTHING: tuple[Any, ...] = (None, "", [], (), {})


def told(status: RolloutStatus) -> dict[str, Any]:
    """State, stage, shares and the latest look; then the run, and once what is declared.

    What is empty, and the data of plots, is left out. Each table has champion before challenger.
    """
    run, latest = status.run, status.latest
    found: dict[str, Any] = {"state": "never started" if run is None else str(run.state)}
    if run is not None:
        found |= {"stage": _stage(run), "why": run.why, "shares": _shares(run, latest)}
    if latest is not None:
        found |= _look(latest)
    found["agreement"] = [_agreed(one) for one in status.agreement]
    if run is not None:
        found["run"] = _run(run)
    found["declared"] = _filled(status.rollout.model_dump())
    return _filled(found)


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in _NOTHING}


def _stage(run: Run) -> str:
    stages = run.rollout.stages
    if not stages:
        return ""
    stage = stages[min(run.stage, len(stages) - 1)]
    return (
        f"{run.stage + 1} of {len(stages)}, since {run.stage_since:%Y-%m-%d %H:%M:%SZ}; held at"
        f" least {stage.hold} and for {stage.least_units} units of each challenger"
    )


def _shares(run: Run, latest: KeptLook | None) -> list[dict[str, Any]]:
    units = latest.look.units if latest else {}
    return [
        {"variant": name, "share": f"{share:.4g}", "units": units.get(name)}
        for name, share in run.shares.items()
    ]


def _look(latest: KeptLook) -> dict[str, Any]:
    look = latest.look
    return {
        "latest look": _filled(
            {
                "at": latest.at,
                "decision": latest.decision,
                "why": latest.why,
                "mismatch": "units do not fall by the shares" if look.mismatch else "",
                "unmeasured": look.unmeasured,
            }
        ),
        "guardrails": [_guardrail(one) for one in look.guardrails],
        "success": [_success(one) for one in look.success],
        **_only_told(look),
    }


def _only_told(look: Look) -> dict[str, Any]:
    return {
        "segments": [
            {
                "segment": f"{one.field} {one.value}",
                "challenger": one.challenger,
                "units": one.units,
                "difference": f"{one.estimate:+.2%}",
                "differs": "yes" if one.differs else "no",
            }
            for one in look.segments
        ],
        "chances": [one.model_dump() for one in look.chances],
        "weights": look.weights,
    }


def _guardrail(one: GuardrailReading) -> dict[str, Any]:
    said = one.why
    if one.breached and one.worse_by is not None:
        said = f"breached: worse by at least {one.worse_by:.1%}"
    elif one.breached:
        said = f"breached: {one.why}"
    return {
        "metric": one.metric,
        "variant": one.challenger,
        "champion": _figure(one.champion),
        "challenger": _figure(one.challenger_value),
        "units": f"{one.n_champion:g} / {one.n_challenger:g}",
        "said": said or "no harm shown",
    }


def _success(one: SuccessReading) -> dict[str, Any]:
    difference = "unknown"
    if one.estimate is not None:
        difference = f"{one.estimate:+.2%}"
    if one.low is not None and one.high is not None:
        difference += f" ({one.low:+.2%} to {one.high:+.2%})"
    return {
        "metric": one.metric,
        "variant": one.challenger,
        "difference": difference,
        "units": f"{one.n_champion:g} / {one.n_challenger:g}",
        "said": one.decided or one.why or "not decided",
    }


def _agreed(one: Agreement) -> dict[str, Any]:
    gap = "unknown"
    if one.greatest_gap is not None:
        gap = _figure(one.greatest_gap)
    if one.gap_at is not None:
        gap += f" at {one.gap_at:.4g}"
    return {
        "variant": one.challenger,
        "champion": _figure(one.mean_champion),
        "challenger": _figure(one.mean_challenger),
        "scores": f"{one.n_champion} / {one.n_challenger}",
        "greatest gap": gap,
    }


def _run(run: Run) -> dict[str, Any]:
    fields = run.model_dump(
        include={
            "id", "step", "change", "release", "model", "champion", "layer", "dismissed",
            "started_at", "started_by", "ended_at", "ended_by", "n_looks", "failures", "due_at",
        }
    )  # fmt: skip
    return _filled({**fields, "outcome": _filled(run.outcome.model_dump())})


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"

"""What `falaj rollouts show` tells a person."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from falaj.interfaces.printing import show
from falaj.rollouts import runs
from falaj.rollouts.model import GuardrailReading
from falaj.rollouts.records import RolloutStatus


def shown(status: RolloutStatus, *, as_json: bool = False) -> list[str]:
    console = Console(width=80, record=True, file=io.StringIO())
    show(console, status, as_json=as_json)
    return console.export_text().splitlines()


def seen(trial: Any) -> RolloutStatus:
    trial.started()
    reading = GuardrailReading(
        metric="bought", challenger="two", n_champion=1800, n_challenger=200, champion=0.31,
        challenger_value=0.1234567, worse_by=None, error=0.025,
        why="fewer than 100 units, or 10 of the rarer outcome",
    )  # fmt: skip
    trial.sees_success(guardrails=[reading])
    trial.after(30)
    run = trial.run()
    with trial.database.reading() as connection:
        latest = runs.latest_look(connection, run.id)
    return RolloutStatus(rollout=run.rollout, run=run, latest=latest, plot=[])


def test_how_a_rollout_stands_comes_first_and_the_declaration_once_and_last(trial: Any) -> None:
    lines = shown(seen(trial))
    assert [line.split()[0] for line in lines[:2]] == ["state", "stage"]
    assert "running" in lines[0] and "1 of 2" in lines[1]
    assert sum("least_units" in line for line in lines) == 1
    fields = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert fields.index("guardrails") < fields.index("run") < fields.index("declared")
    assert fields[-1] == "declared"


def test_the_latest_look_has_the_champion_before_the_challenger(trial: Any) -> None:
    lines = shown(seen(trial))
    header = next(n for n, line in enumerate(lines) if line.startswith("guardrails"))
    assert header < 20
    assert lines[header].split() == [
        "guardrails", "metric", "variant", "champion", "challenger", "units", "said",
    ]  # fmt: skip
    assert lines[header + 1].split()[:7] == ["bought", "two", "0.31", "0.1235", "1800", "/", "200"]
    assert any("+8.00% (+2.00%" in line for line in lines)


def test_json_is_whole(trial: Any) -> None:
    status = seen(trial)
    found = json.loads("\n".join(shown(status, as_json=True)))
    assert RolloutStatus.model_validate(found) == status


def test_one_that_never_ran_is_told_so(trial: Any) -> None:
    status = RolloutStatus(rollout=trial.declared(), run=None, latest=None, plot=[])
    assert shown(status)[0].split() == ["state", "never", "started"]

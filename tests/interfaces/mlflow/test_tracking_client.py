"""Tracking by MLflow's unmodified client, and through a kill of the server.

By themselves: while a small world is open, platforms of this process are that world.
"""

import itertools
import threading
from pathlib import Path

import httpx
import pytest

from falaj.testing.installations import client
from falaj.testing.mlflowclients import INTERPRETER, MISSING, for_clients

needs_client = pytest.mark.skipif(not INTERPRETER.exists(), reason=MISSING)


@needs_client
def test_the_unmodified_client_tracks_searches_and_finds_all_again(tmp_path):
    with for_clients(tmp_path) as ours:
        found = ours.run(Path(__file__).with_name("tracked_by_client.py"))
    assert found == {
        "again": "RESOURCE_ALREADY_EXISTS",
        "experiment": [True, "active", {"team": "delays", "stage": "trial"}],
        "nobody": None,
        "unknown": "RESOURCE_DOES_NOT_EXIST",
        "deleted": "deleted",
        "in_deleted": "INVALID_STATE",
        "experiments": ["flights/late"],
        "default": "Default",
        "run": [
            "outer", "FINISHED", {"depth": "3", "rate": "0.1"}, 0.2, "inf", "sweep", True,
            [["small", ["training"]]],
        ],
        "history": [[step, 1 / (step + 1)] for step in range(5)],
        "odd": ["nan", "inf"],
        "children": ["inner"],
        "ordered": ["inner", "outer"],
        "late": 8.0,
        "changed": "INVALID_PARAMETER_VALUE",
        "batch": 1000,
        "long": 8000,
        "no_tag": "RESOURCE_DOES_NOT_EXIST",
        "when_deleted": "INVALID_STATE",
        "gone": ["renamed"],
        "restored": "active",
        "pages": ["renamed", "outer"],
        "foreign": "INVALID_PARAMETER_VALUE",
        "wrong": "INVALID_PARAMETER_VALUE",
        "no_run": "RESOURCE_DOES_NOT_EXIST",
        "all": 3,
    }  # fmt: skip


def test_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path):
    def logs(web, run, path, count):
        """Log step by step until the server is gone; gives the steps that were acknowledged."""
        kept = []
        for step in count:
            point = {"key": "m", "value": step / 3, "timestamp": step, "step": step}
            batch = {"run_id": run, "metrics": [point], "params": [], "tags": []}
            document = batch if path.endswith("batch") else {"run_id": run, **point}
            try:
                answer = web.post(f"/mlflow/api/2.0/mlflow/{path}", json=document)
            except httpx.TransportError:
                break
            if answer.status_code == 200:
                kept.append(step)
        return kept

    with for_clients(tmp_path) as ours:
        plane = ours.installation
        bearer = {"Authorization": f"Bearer {ours.token()}"}
        with client(plane.control, plane.ca) as web:
            web.headers.update(bearer)
            made = web.post("/mlflow/api/2.0/mlflow/runs/create", json={"experiment_id": "0"})
            run = made.raise_for_status().json()["run"]["info"]["run_id"]
            killer = threading.Timer(0.7, lambda: plane.kill("control"))
            before = plane.pid("control")
            killer.start()
            kept = logs(web, run, "runs/log-batch", itertools.count())
            killer.join()
        plane.revived("control", before)
        with client(plane.control, plane.ca) as web:
            web.headers.update(bearer)
            more = logs(web, run, "runs/log-metric", range(100_000, 100_200))
            asked = f"/mlflow/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=m"
            found = [one["step"] for one in web.get(asked).raise_for_status().json()["metrics"]]
    assert len(more) == 200
    # The last call may have been kept without being acknowledged.
    assert set(kept) | set(more) <= set(found) <= {*kept, *more, len(kept)}
    assert len(kept) > 5

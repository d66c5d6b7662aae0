"""Workers on a real Ray of two cores, with its token; run as a program this file is the driver.

Ray keeps much in a process (its settings, its connection), so the driver is one of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from falaj.kernel.errors import Unavailable
from falaj.serving.adapters.workers_ray import RayWorkers, Worker, connect

BODY = {"inputs": [{"a": 0.5, "b": -1.25, "c": 2.0}]}
HEADERS = {"authorization": "Bearer user:amina"}
PATH = "/v1/endpoints/delays/predict"


def maker(folder: Path) -> Any:
    def make(name: str) -> Worker:
        from falaj.serving.adapters.runtime_onnx import OnnxRuntime
        from falaj.serving.compiler import PlanCompiler
        from falaj.serving.inference import InferenceApp
        from falaj.serving.meters import Meters
        from falaj.serving.model import ServableModel
        from falaj.serving.plans import Keeper, Plans
        from falaj.serving.predictionlog import PredictionLog
        from falaj.serving.routing import RoutingTable
        from falaj.serving.workload import Workload
        from falaj.testing.fakes import AllowAll
        from falaj.testing.serving import MemoryBundles, MemorySpools, NamedTokens

        model = ServableModel("onnx", (folder / "model.onnx").read_bytes(), ("a", "b", "c"))
        table = RoutingTable(folder / "routing")
        runtime = OnnxRuntime(device="cpu")
        plans = Plans(table, PlanCompiler(MemoryBundles({"sha256:a": model}), [runtime], None))
        app = InferenceApp(
            plans=plans,
            keeper=Keeper(plans, table, worker=name),
            verifier=NamedTokens(),
            policy=AllowAll(),
            log=PredictionLog(MemorySpools()),
            meters=Meters(folder / "meters", name),
            workload=Workload(folder / name),
        )
        return Worker(app, folder / name, close=table.close, linger_seconds=0.5)

    return make


def drive(folder: Path) -> dict[str, Any]:
    """Serve, be killed, be placed again, serve again, grow, shrink."""
    import ray

    from falaj.serving.scaling import Observation
    from falaj.testing.installations import eventually

    def published(addresses: Any) -> None:
        (folder / "addresses").write_text("\n".join(addresses))

    def asked(address: str) -> int:
        try:
            return httpx.post(f"http://{address}{PATH}", json=BODY, headers=HEADERS).status_code
        except httpx.TransportError:
            return 0

    connect(
        "local", num_cpus=2, object_store_memory=80 << 20, include_dashboard=False,
        _node_ip_address="127.0.0.1", _temp_dir=str(folder / "r"),
    )  # fmt: skip
    pool = RayWorkers(maker(folder), published, cpus=0.5, settle_seconds=0.2)
    told: dict[str, Any] = {"auth": os.environ["RAY_AUTH_MODE"]}

    def observed() -> Observation | None:
        return pool.observe(time.monotonic())

    try:
        pool.resize(1)
        eventually(observed, every=0.3, seconds=150)
        (address,) = pool.addresses
        told["served"] = asked(address)

        (actor,) = pool._members.values()
        _, pid, _ = ray.get(actor.told.remote())
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: observed() and pool.addresses, every=0.3, seconds=150)
        (again,) = pool.addresses
        told["served_again"] = eventually(lambda: asked(pool.addresses[0]) or None)
        _, new, _ = ray.get(actor.told.remote())
        told["another_process"] = new != pid
        told["published"] = (folder / "addresses").read_text() == again

        pool.resize(2)
        eventually(lambda: observed() and len(pool.addresses) == 2, every=0.3, seconds=150)
        told["both"] = [asked(one) for one in pool.addresses]
        gone = pool.addresses[1]
        pool.resize(1)
        told["taken_out_first"] = (folder / "addresses").read_text() == again
        told["still_answers"] = asked(gone)
        eventually(lambda: (observed(), asked(gone) == 0)[1], every=0.3)
        told["left_alone"] = asked(pool.addresses[0])
    finally:
        pool.close()
        ray.shutdown()
    return told


@pytest.mark.nightly
def test_an_actor_serves_is_killed_is_placed_again_and_serves_again_and_scales(
    tmp_path: Path,
) -> None:
    from falaj.serving.routing import RoutingTable
    from falaj.testing.serving import make_release, onnx_classifier

    with tempfile.TemporaryDirectory(prefix="fr", dir="/tmp") as short:  # sockets' paths are short
        folder = Path(short)
        (folder / "model.onnx").write_bytes(onnx_classifier())
        table = RoutingTable(folder / "routing")
        table.write(make_release())
        table.flip("delays", "release_1")
        table.close()
        surroundings = {
            **os.environ,
            "HOME": short,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": os.urandom(16).hex(),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        done = subprocess.run(
            [sys.executable, __file__, short],
            env=surroundings, capture_output=True, timeout=280, check=False, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "auth": "token",
        "served": 200,
        "served_again": 200,
        "another_process": True,
        "published": True,
        "both": [200, 200],
        "taken_out_first": True,
        "still_answers": 200,
        "left_alone": 200,
    }


def test_a_ray_that_asks_for_no_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(Unavailable, match="no token") as told:
        connect("local")
    assert "RAY_AUTH_MODE=token" in str(told.value.hint)


if __name__ == "__main__":
    print(json.dumps(drive(Path(sys.argv[1]))))

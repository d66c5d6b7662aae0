"""A large artifact up and down with MLflow's client: ours encrypted and over TLS, MLflow's clear.

    .venv/bin/python benchmarks/training/artifacts.py [--size small|full] [--write]

Both servers stand on the same disk and are asked in turn by the same client. MLflow's has one
worker, uvloop and no jobs, its best setting. The memory is the growth of the server
process's greatest resident size, from a transfer of 1 MB to the large one.
"""

import filecmp
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import ROOT, Row, arguments, median, report

from falaj.testing.guarded import free_ports
from falaj.testing.mlflowclients import INTERPRETER, MISSING, for_clients, run_script

CLIENT = Path(__file__).with_name("transfer_client.py")
MB = 1_000_000


@contextmanager
def mlflow_server(folder):
    """MLflow's server at its best; gives its address and process id."""
    (port,) = free_ports(1)
    command = [
        str(INTERPRETER), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"),
        "--workers", "1", "--uvicorn-opts", "--loop uvloop",
    ]  # fmt: skip
    surroundings = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=surroundings, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(address + "/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        else:
            raise SystemExit((folder / "mlflow.log").read_text()[-2000:])
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(30)


def children(pid):
    """A process and all below it."""
    found = [pid]
    for one in found:
        text = Path(f"/proc/{one}/task/{one}/children").read_text()
        found += [int(child) for child in text.split()]
    return found


def greatest(pids):
    """The sum of the greatest resident sizes of processes so far, in MB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                total += int(line.split()[1]) / 1024
    return total


def main():
    given = arguments(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that both servers are ended
    if not INTERPRETER.exists():
        raise SystemExit(MISSING)
    n_bytes, rounds = (500 * MB, 5) if given.size == "full" else (50 * MB, 2)
    with tempfile.TemporaryDirectory(dir=ROOT / ".venv") as text:
        folder = Path(text)
        (folder / "theirs").mkdir()
        large, small = folder / "large.bin", folder / "small.bin"
        large.write_bytes(os.urandom(n_bytes))
        small.write_bytes(os.urandom(MB))
        with (
            for_clients(folder / "ours") as ours,
            mlflow_server(folder / "theirs") as (address, server),
        ):
            with ours.installation.near() as platform:
                run = platform.runs.start("transfer").id
            sides = {
                "ours": (
                    f"mlflow-artifacts:/transfer/{run}/artifacts",
                    ours.variables,
                    lambda: [ours.installation.pid("control")],
                ),
                "theirs": (
                    "mlflow-artifacts:/0/run/artifacts",
                    lambda: {"MLFLOW_TRACKING_URI": address},
                    lambda: children(server),
                ),
            }

            def transfer(side, file):
                uri, variables, _ = sides[side]
                back = folder / "back"
                back.mkdir()
                seconds = run_script(
                    CLIENT, uri, str(file), str(back), variables=variables(), seconds=600
                )
                assert filecmp.cmp(file, back / "data" / file.name, shallow=False)
                shutil.rmtree(back)
                return seconds

            before = {}
            for side, (_, _, pids) in sides.items():
                transfer(side, small)
                before[side] = greatest(pids())
            found = {side: [] for side in sides}
            for _ in range(rounds):
                for side in sides:
                    found[side].append(transfer(side, large))
            growth = {side: greatest(sides[side][2]()) - before[side] for side in sides}

    def rate(side, way):
        return n_bytes / MB / median([one[way] for one in found[side]])

    rows = []
    for way, work in (("up", "upload of an artifact"), ("down", "download of an artifact")):
        mine, theirs = rate("ours", way), rate("theirs", way)
        rows.append(
            Row(work, f"{n_bytes // MB} MB", "MB/s", mine, theirs, "MLflow, clear",
                goal="≥ 1 times", met=mine >= theirs, better="more")
        )  # fmt: skip
    rows.append(
        Row("growth of the server's memory", f"{n_bytes // MB} MB", "MB", growth["ours"],
            growth["theirs"], "MLflow", goal="≤ 40 MB", met=growth["ours"] <= 40)
    )  # fmt: skip
    report("training", "Artifacts: encrypted streams", rows, given)


if __name__ == "__main__":
    main()

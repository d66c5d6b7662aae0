"""A real Ray on this machine keeps what every compute promises, and listens to nobody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from falaj.kernel.adapters.compute_ray import RayCompute
from falaj.testing.compute import ComputeConformance
from falaj.testing.limits import LimitedConformance


@pytest.fixture(scope="module")
def compute():
    made = RayCompute(slots=2, memory_bytes=2**30)
    yield made
    made.close()


class TestRayCompute(ComputeConformance):
    pass


@pytest.mark.nightly
class TestLimitedOnRay(LimitedConformance):
    pass


def test_a_run_on_ray_is_ended_with_all_it_began(compute, tmp_path):
    LimitedConformance().test_what_the_check_raises_ends_the_run_within_a_second(compute, tmp_path)


def descendants(parent):
    """The ids of the processes that a process has begun, and theirs."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(stat[1])
    found = {parent}
    while more := {pid for pid, its in parents.items() if its in found} - found:
        found |= more
    return found - {parent}


def listening(pids):
    """The addresses on which processes listen, as the kernel writes them."""
    inodes = set()
    for pid in pids:
        try:
            targets = [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        inodes |= {target[8:-1] for target in targets if target.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and parts[9] in inodes:
                found.add(parts[1].partition(":")[0])
    return found


def test_it_listens_on_this_machine_alone(compute):
    pids = descendants(os.getpid())
    assert len(pids) > 2
    found = listening(pids)
    assert found
    assert found <= {"0100007F", "0" * 16 + "FFFF00000100007F"}  # 127.0.0.1, in two ways


@pytest.mark.nightly
@pytest.mark.parametrize("token", [None, "0" * 64])
def test_nobody_without_its_token_gets_an_answer(compute, token, tmp_path):
    address = compute._ray.get_runtime_context().gcs_address
    program = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('entered')"
    environment = {name: one for name, one in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path)}  # no token lies there
    if token is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    stranger = subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        told, _ = stranger.communicate(timeout=60)  # it may try for ever
    except subprocess.TimeoutExpired:
        stranger.kill()
        told, _ = stranger.communicate()
    assert "entered" not in told
    assert stranger.returncode != 0

"""What NVIDIA's tool says, from a stand-in for it: there is no GPU here."""

import stat

import pytest

from falaj.kernel import gpus
from falaj.kernel.gpus import GpuWatch, visible_gpus
from falaj.kernel.resources import MIB, HardwareMissing

TOOL = """#!/bin/sh
case "$1" in
  --query-gpu=index) printf '0\\n1\\n' ;;
  --query-gpu=utilization.gpu,memory.used)
    case "$3" in
      --id=0) printf '50, 1024\\n' ;;
      *) printf '[N/A], [N/A]\\n' ;;
    esac ;;
esac
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    file = tmp_path / "nvidia-smi"
    file.write_text(TOOL)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_run_sees_as_many_gpus_as_it_asks_for(tool):
    assert visible_gpus(0) == []
    assert visible_gpus(0.5) == ["0"]
    assert visible_gpus(2) == ["0", "1"]
    with pytest.raises(HardwareMissing, match="asks for 3 GPUs, and this machine has 2"):
        visible_gpus(3)


def test_gpus_that_somebody_hid_are_not_there(tool, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(HardwareMissing, match="has 0"):
        visible_gpus(1)


def test_time_and_memory_of_gpus_are_added_up(tool, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(gpus, "monotonic", lambda: now[0])
    watch = GpuWatch(["0"])
    watch.look()  # too early for a look
    for _ in range(3):
        now[0] += 4
        watch.look()
    assert watch.used() == (6.0, 1024 * MIB)


def test_a_gpu_that_tells_nothing_counts_nothing(tool, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(gpus, "monotonic", lambda: now[0])
    watch = GpuWatch(["1"])
    now[0] += 4
    watch.look()
    assert watch.used() == (0.0, 0)


def test_without_the_tool_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(HardwareMissing, match="has 0"):
        visible_gpus(0.25)

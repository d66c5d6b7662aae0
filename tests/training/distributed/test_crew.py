"""A crew works together, loses a worker, and goes on from its last state."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from falaj.kernel.adapters.compute_local import LocalCompute
from falaj.kernel.adapters.compute_ray import RayCompute
from falaj.kernel.compute import TaskLost, task
from falaj.kernel.errors import Conflict
from falaj.kernel.resources import MIB, Resources
from falaj.testing.crews import kill_a_worker_after
from falaj.testing.trainers import ENCODING, NUMBER, WORDS, examples_of
from falaj.training.adapters.distributed_lightgbm import lightgbm_member
from falaj.training.distributed.crew import CrewWork, TooFewWorkers, fitted_by_crew
from falaj.training.distributed.members import Keeping, gather, join, report
from falaj.training.distributed.rows import crew_work
from falaj.training.ports import untold

TWO = Resources(cpus=1, memory_bytes=512 * MIB, workers=2, least_workers=1)


@task
def counting_member(item):
    """Counts to ten with the others; the one whose turn it is to fall, falls once."""
    joined = join()
    keeping = Keeping(0.0)
    begun = joined.last["n"] if joined.last else 0
    for n in range(begun, 10):
        total = sum(gather(n))
        assert total == n * joined.n_workers
        if joined.rank == 0:
            report(n / 10, f"{n}")
            keeping.keep(n + 1, {"n": n + 1})
        falls = Path(item["falls"])
        if n == item.get("at", -1) and joined.rank == joined.n_workers - 1 and falls.exists():
            falls.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    return {"$": "map", "items": [["from", begun], ["part", joined.part], ["rank", joined.rank]]}


@task
def late_member(item):
    """The second one to come never joins."""
    mine = Path(item["folder"]) / "first"
    try:
        mine.touch(exist_ok=False)
    except FileExistsError:
        time.sleep(60)
    joined = join()
    return {"$": "map", "items": [["n", joined.n_workers]]}


@task
def falling_member(item):
    join()
    os.kill(os.getpid(), signal.SIGKILL)


@task
def refusing_member(item):
    if join().rank == 1:
        raise Conflict("I will not.")
    time.sleep(60)


@pytest.fixture(scope="module")
def compute():
    made = LocalCompute(2)
    yield made
    made.close()


def fit(compute, work, resources=TWO, **more):
    used = []
    given = {"report": lambda *_one: None, "check": lambda: None, **more}
    return fitted_by_crew(compute, work, resources, measured=used.append, **given), used[0]


def work_of(task_, item, **more):
    return CrewWork(task_, item, lambda rank, n: f"{rank} of {n}", {}, **more)


def test_workers_have_a_part_each_and_the_first_ones_result_is_taken(compute, tmp_path):
    told = []
    work = work_of(counting_member, {"falls": str(tmp_path / "no")})
    result, used = fit(compute, work, report=lambda share, _told: told.append(share))
    assert result == {"from": 0, "part": "0 of 2", "rank": 0}
    assert told == [n / 10 for n in range(10)]
    assert used.cpu_seconds > 0


def test_a_lost_worker_costs_the_work_since_the_last_state(compute, tmp_path):
    (tmp_path / "falls").touch()
    kept = []
    work = work_of(
        counting_member,
        {"falls": str(tmp_path / "falls"), "at": 6},
        keep=lambda n_done, _state: kept.append(n_done),
    )
    result, _ = fit(compute, work)
    assert work.sizes == [2, 2], "it asks for all workers again"
    assert result["from"] >= 5
    assert sorted(set(kept)) == list(range(1, 11))


def test_it_goes_on_with_those_that_find_a_place_in_time(compute, tmp_path):
    work = work_of(late_member, {"folder": str(tmp_path)}, place_seconds=1.0)
    result, _ = fit(compute, work)
    assert (result, work.sizes) == ({"n": 1}, [1])


def test_fewer_workers_than_it_may_have_are_told(compute, tmp_path):
    work = work_of(late_member, {"folder": str(tmp_path)}, place_seconds=1.0)
    resources = TWO.model_copy(update={"least_workers": 2})
    with pytest.raises(TooFewWorkers, match="Only 1 of 2 workers found a place"):
        fit(compute, work, resources)


def test_a_crew_that_loses_workers_again_and_again_is_given_up(compute):
    work = work_of(falling_member, {})
    with pytest.raises(TaskLost):
        fit(compute, work)
    assert work.sizes == [2, 2, 2]


def test_what_a_worker_raises_ends_all(compute):
    work = work_of(refusing_member, {})
    with pytest.raises(Conflict, match="I will not"):
        fit(compute, work)


def trees_of(name):
    from falaj.training.adapters.distributed_xgboost import xgboost_member
    from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
    from falaj.training.adapters.trainer_xgboost import XgBoostTrainer

    few = {"n_trees": 60, "early_stopping_rounds": 60}
    return {
        "lightgbm": (LightGbmTrainer(), lightgbm_member, {**few, "min_data_in_leaf": 20}),
        "xgboost": (XgBoostTrainer(), xgboost_member, {**few, "num_threads": 1}),
    }[name]


def example():
    import pyarrow as pa

    from falaj.training.encoding import learned
    from falaj.training.ports import Rows

    chance = np.random.default_rng(5)
    matrix = chance.normal(size=(4000, 4)).astype(np.float32)
    labels = (matrix[:, 0] + 0.5 * matrix[:, 1] + chance.normal(size=4000) > 0).astype(float)
    names = ("a", "b", "c", "d")
    table = pa.table({name: matrix[:, place].astype(float) for place, name in enumerate(names)})
    rows = Rows(matrix[:3000], labels[:3000]), Rows(matrix[3000:], labels[3000:])
    return *rows, learned(table, names, labels)


def killed_and_alone(compute, name, resources):
    """The AUC of a crew that lost a worker, and of the trainer alone."""
    from falaj.training.metrics import binary_metrics

    trainer, member, params = trees_of(name)
    train, validation, encoding = example()
    given = {"params": params, "seed": 3}
    here = isinstance(compute, LocalCompute)
    work = crew_work(member, train, validation, encoding, **given, here=here, every_seconds=0.0)
    work.keep = killer = kill_a_worker_after(20)
    fitted, _ = fit(compute, work, resources)
    assert killer.killed is not None
    assert work.sizes == [2, 2]
    assert fitted.facts["n_workers"] == 2
    assert fitted.facts["n_trees_tried"] == 60
    assert killer.states.count(20) == 1, "no tree before the last state is grown again"
    alone = trainer.fit(train, validation, encoding, **given, report=untold)
    return [
        binary_metrics(validation.labels, trainer.scores(one, validation.matrix))["auc"]
        for one in (fitted, alone)
    ]


LARGER = TWO.model_copy(update={"memory_bytes": 1024 * MIB})


@pytest.mark.parametrize("name", ["lightgbm", pytest.param("xgboost", marks=pytest.mark.nightly)])
def test_trees_on_two_workers_are_as_good_as_on_one_though_one_is_killed(compute, name):
    of_crew, of_one = killed_and_alone(compute, name, LARGER)
    assert of_crew == pytest.approx(of_one, abs=0.02)
    assert of_one > 0.75


@pytest.mark.parametrize("target", [NUMBER, WORDS], ids=lambda one: one.task)
@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "torch"])
def test_other_labels_are_learned_by_two_workers_as_well_as_by_one(compute, name, target):
    from falaj.training.rowmetrics import metrics_of

    if name == "torch":
        pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
        from falaj.training.adapters.distributed_torch import torch_member
        from falaj.training.adapters.trainer_torch import TorchTrainer

        few = {"epochs": 10, "batch_rows": 128, "hidden": [16], "learning_rate": 0.01}
        trainer, member, params = TorchTrainer(), torch_member, few
    else:
        trainer, member, params = trees_of(name)
    train, validation = examples_of(target, 1, 3000), examples_of(target, 2, 1000)
    given = {"params": params, "seed": 3}
    work = crew_work(member, train, validation, ENCODING, **given, here=True, every_seconds=60.0)
    resources = TWO.model_copy(update={"memory_bytes": 2048 * MIB})
    fitted, _ = fit(compute, work, resources)
    alone = trainer.fit(train, validation, ENCODING, **given, report=untold)
    metric = "rmse" if target is NUMBER else "log_loss"
    of_crew, of_one = (
        metrics_of(
            target, validation.labels,
            trainer.scores(replace(one, target=target), validation.matrix),
        )[metric]
        for one in (fitted, alone)
    )  # fmt: skip
    assert fitted.facts["n_workers"] == 2
    assert of_crew == pytest.approx(of_one, rel=0.15)


def network_killed_and_alone(compute):
    """The AUC of a network's crew that lost a worker, and of the trainer alone."""
    pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    from falaj.training.adapters.distributed_torch import torch_member
    from falaj.training.adapters.trainer_torch import TorchTrainer
    from falaj.training.metrics import binary_metrics

    train, validation, encoding = example()
    given = {"params": {"epochs": 12, "batch_rows": 256, "hidden": [16],
                        "early_stopping_rounds": 12, "learning_rate": 0.01}, "seed": 3}  # fmt: skip
    here = isinstance(compute, LocalCompute)
    work = crew_work(torch_member, train, validation, encoding, **given, here=here,
                     every_seconds=0.0)  # fmt: skip
    work.keep = killer = kill_a_worker_after(4)
    fitted, _ = fit(compute, work, TWO.model_copy(update={"memory_bytes": 2048 * MIB}))
    assert killer.killed is not None
    assert work.sizes == [2, 2]
    assert killer.states.count(4) == 1
    assert fitted.facts["n_epochs_tried"] == 12
    trainer = TorchTrainer()
    alone = trainer.fit(train, validation, encoding, **given, report=untold)
    return [
        binary_metrics(validation.labels, trainer.scores(one, validation.matrix))["auc"]
        for one in (fitted, alone)
    ]


@pytest.mark.nightly
def test_a_network_on_two_workers_is_as_good_as_on_one_though_one_is_killed(compute):
    of_crew, of_one = network_killed_and_alone(compute)
    assert of_crew == pytest.approx(of_one, abs=0.02)
    assert of_one > 0.75


@pytest.fixture(scope="module")
def ray():
    made = RayCompute(slots=2, memory_bytes=2**31)
    yield made
    made.close()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["lightgbm", "xgboost"])
def test_trees_on_a_ray_of_two_workers_are_as_good_though_one_is_killed(ray, name):
    of_crew, of_one = killed_and_alone(ray, name, LARGER)
    assert of_crew == pytest.approx(of_one, abs=0.02)


@pytest.mark.nightly
def test_a_network_on_a_ray_of_two_workers_is_as_good_though_one_is_killed(ray):
    of_crew, of_one = network_killed_and_alone(ray)
    assert of_crew == pytest.approx(of_one, abs=0.02)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["lightgbm", "xgboost"])
def test_one_worker_goes_on_where_two_were(compute, name):
    trainer, member, params = trees_of(name)
    train, validation, encoding = example()
    given = {"params": params, "seed": 3}
    states = []

    class Enough(Conflict):
        code = "test-enough"

    def keep(n_done, state):
        states.append(state)
        if n_done >= 20:
            raise Enough("Enough.")

    work = crew_work(member, train, validation, encoding, **given, here=True, every_seconds=0.0)
    work.keep = keep
    with pytest.raises(Enough):
        fit(compute, work, LARGER)

    class Kept:
        def last(self):
            return states[-1]

        def keep(self, _n_done, _state):
            pass

    fitted = trainer.fit(train, validation, encoding, **given, report=untold, checkpoints=Kept())
    assert fitted.facts["n_trees_tried"] == 60

"""The queue of runs, their limits and costs, joined."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from falaj.kernel.compute import task
from falaj.training.costs.budgets import Budgets
from falaj.training.costs.ledger import Ledger
from falaj.training.costs.meters import Meters
from falaj.training.costs.queueing import RunQueue
from falaj.training.costs.teams import Teams
from falaj.wiring.seldom import Seldom

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.compute import Task
    from falaj.kernel.fairqueue import FairQueue
    from falaj.kernel.lentcompute import Lent
    from falaj.training.costs.fits import Fits
    from falaj.training.costs.service import CostService
    from falaj.training.ports import Trainer
    from falaj.wiring.assembly import Premises


def fair_queue(made: Premises) -> FairQueue:
    """Chooses among the jobs of the teams that the settings declare."""
    from falaj.kernel.fairqueue import FairQueue

    return FairQueue(Teams(made.settings.queue).quota, _budgets(made).hold)


def run_queue(made: Premises) -> RunQueue:
    """Lets training requests into the queue."""
    settings = made.settings.queue
    return RunQueue(settings, Teams(settings), _budgets(made))


def meters(made: Premises) -> Meters:
    """Charges trials of studies and steps of pipelines."""
    settings = made.settings.queue
    return Meters(Ledger(), _budgets(made), Teams(settings), settings, made.clock)


def _budgets(made: Premises) -> Budgets:
    return Budgets(made.settings.queue, Ledger(), made.clock)


def cost_service(made: Premises) -> CostService:
    """The actions on costs."""
    from falaj.kernel.call import AssetRef, Call
    from falaj.training.costs.service import CostService

    def sees(call: Call, kind: str, key: str) -> bool:
        return made.visible_ref(call, AssetRef(kind, key))

    return CostService(
        Ledger(),
        _budgets(made),
        Teams(made.settings.queue),
        lambda connection, model: predictions(made, connection, model),
        sees,
        made.catalog,
    )


def predictions(made: Premises, connection: Connection, model: str) -> int:
    """How many predictions of a model's versions stand in the prediction log."""
    from falaj.serving.names import table_of

    n_found = 0
    for endpoint in {one.name for one in made.serving.releases.listed(connection)}:
        table = table_of(endpoint)
        if made.lake.exists(table):
            found = made.lake.query(
                f'SELECT count(*) AS n FROM "{table}" WHERE model = $model',
                parameters={"model": model},
            )
            n_found += int(found.column("n")[0].as_py())
    return n_found


def placed_trainers() -> dict[str, Trainer]:
    """The trainers by name that fit in any process, with nothing of a platform."""
    from falaj.models.adapters.onnx_sklearn import SklearnToOnnx
    from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer
    from falaj.training.adapters.trainer_sklearn import SklearnTrainer
    from falaj.training.adapters.trainer_torch import TorchTrainer
    from falaj.training.adapters.trainer_xgboost import XgBoostTrainer

    known: tuple[Trainer, ...] = (
        LightGbmTrainer(),
        XgBoostTrainer(),
        SklearnTrainer(SklearnToOnnx().convert),
        TorchTrainer(),
    )
    return {one.name: one for one in known}


def crew_members() -> dict[str, Task]:
    """What a worker runs for each trainer that can fit on several of them."""
    from falaj.training.adapters.distributed_lightgbm import lightgbm_member
    from falaj.training.adapters.distributed_torch import torch_member
    from falaj.training.adapters.distributed_xgboost import xgboost_member

    return {"lightgbm": lightgbm_member, "xgboost": xgboost_member, "torch": torch_member}


@task
def fit_task(item: Any) -> Any:
    """Fit with the trainer that the item names, as ``limitedfits`` asks."""
    from falaj.training.limitedfits import fit_told
    from falaj.training.ports import chosen

    return fit_told(chosen(placed_trainers(), item["trainer"]).fit, item)


def fits(made: Premises, *, compute: Callable[[], Lent] | None = None) -> Fits:
    """Where the fits of training jobs run; on what the settings name, unless it is given."""
    from falaj.training.costs.fits import Fits, Placing

    return Fits(
        database=made.database,
        clock=made.clock,
        ledger=Ledger(),
        budgets=_budgets(made),
        settings=made.settings.queue,
        compute=compute or made.compute.opened,
        place=Placing(
            task=fit_task,
            trainers=frozenset(placed_trainers()),
            crews=crew_members(),
            here=made.settings.compute.startswith("local:"),
        ),
    )


def queue_chores(made: Premises) -> dict[str, Callable[[], object]]:
    """What keeps the queue right: accounts of lost attempts end, spot jobs give way."""
    from falaj.kernel.spot import any_spot, make_room

    ledger, after = Ledger(), timedelta(seconds=made.settings.queue.reclaim_seconds)

    def settled() -> None:
        with made.database.reading() as connection:
            anything = ledger.unsettled(connection)
        if anything:
            with made.database.transaction() as connection:
                ledger.settle(connection)

    def room() -> None:
        with made.database.reading() as connection:
            anything = any_spot(connection)
        if anything:
            with made.database.transaction() as connection:
                make_room(made.jobs, connection, after)

    return {
        "accounts of runs": Seldom(settled, every_seconds=5.0),
        "spot resources": Seldom(room, every_seconds=1.0),
        "idle compute": Seldom(made.compute.stop_if_idle, every_seconds=5.0),
    }

"""XGBoost on several workers: its own collective, each worker with a part of the rows.

Workers exchange histograms over sockets of XGBoost's own, in clear; the worker of rank 0 runs
the tracker at which they meet. All grow the same trees. States are those of
``trainer_xgboost``, so that one worker can go on where several were.
"""

from __future__ import annotations

import base64
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from falaj.kernel.compute import Plain, task
from falaj.kernel.errors import InvalidInput
from falaj.training.adapters.trainer_xgboost import (
    XgBoostTrainer,
    _Begun,
    _finished,
    fixed,
)
from falaj.training.distributed.crew import CrewBroken
from falaj.training.distributed.members import Joined, Keeping, address, gather, join, report
from falaj.training.extras import library
from falaj.training.parameters import finite
from falaj.training.plainly import plainly
from falaj.training.rowmetrics import loss_of
from falaj.training.stopping import Patience

_REPORT_EVERY = 10
_TIME_OUT_SECONDS = 120


@task
def xgboost_member(item: Plain) -> Plain:
    """One worker's part of a fit; the model at rank 0, None elsewhere.

    Args:
        item: ``every_seconds``, how much work may be lost with a worker; ``host``, where
            others reach it, if that is not for it to find out.
    """
    joined = join()
    xgboost = library("xgboost", "xgboost")
    full = XgBoostTrainer().parameters(joined.shared["params"])
    n_trees, rounds = full.pop("n_trees"), full.pop("early_stopping_rounds")
    full.pop("checkpoint_rounds")
    settings = {
        **full, **fixed(joined.part.target),
        "nthread": full.pop("num_threads"), "seed": joined.shared["seed"],
    }  # fmt: skip
    settings.pop("num_threads", None)
    state = _Begun(patience=Patience(rounds=rounds))
    if joined.last is not None:
        state = _Begun.model_validate_json(joined.last)
    keeping = Keeping(item["every_seconds"])
    try:
        with ExitStack() as network:
            if joined.n_workers > 1:
                arguments = _met(network, joined, item.get("host"))
                network.enter_context(xgboost.collective.CommunicatorContext(**arguments))
            _grow(joined, state, settings, n_trees, keeping)
    except xgboost.core.XGBoostError as error:
        told = str(error).splitlines()[0][:300]
        if joined.n_workers > 1 and _of_the_network(str(error)):
            raise CrewBroken(f"XGBoost lost another worker: {told}.") from None
        raise InvalidInput(
            f"XGBoost refused the rows or parameters: {told}.",
            hint="Check the parameters and the number of rows of each worker.",
        ) from None
    if joined.rank:
        return None
    fitted = _finished(state, joined.shared["encoding"])
    return plainly(replace(fitted, facts={**fitted.facts, "n_workers": float(joined.n_workers)}))


def _met(network: ExitStack, joined: Joined, host: str | None) -> dict[str, Any]:
    """How this worker reaches the others; that of rank 0 runs the tracker until all have left."""
    from xgboost.tracker import RabitTracker

    own: dict[str, Any] = {}
    if joined.rank == 0:
        tracker = RabitTracker(n_workers=joined.n_workers, host_ip=address(host)[0], sortby="task")
        tracker.start()
        own = tracker.worker_args()
        network.callback(tracker.wait_for, timeout=_TIME_OUT_SECONDS)
    arguments: dict[str, Any] = gather(own)[0]
    arguments |= {
        "dmlc_task_id": f"{joined.rank:04}",
        "dmlc_timeout": _TIME_OUT_SECONDS,
        "dmlc_retry": 1,
    }
    return arguments


def _grow(
    joined: Joined, state: _Begun, settings: dict[str, Any], n_trees: int, keeping: Keeping
) -> None:
    """Grow the trees that are left; ``state`` holds them all afterwards."""
    xgboost = library("xgboost", "xgboost")
    rows, watched = joined.part, joined.shared["validation"]
    train = xgboost.DMatrix(finite(rows.matrix), rows.labels, weight=rows.weights)
    validation = xgboost.DMatrix(finite(watched.matrix), watched.labels)
    booster = xgboost.Booster(settings, [train, validation])
    if state.model:
        booster.load_model(bytearray(base64.b64decode(state.model)))
        booster.set_param(dict(settings))
    patience = state.patience
    while patience.n_done < n_trees and not patience.over:
        booster.update(train, patience.n_done)
        loss = loss_of(watched.target, watched.labels, booster.predict(validation))
        patience.saw(loss)
        if joined.rank == 0 and patience.n_done % _REPORT_EVERY == 0:
            report(patience.n_done / n_trees, f"tree {patience.n_done}, loss {loss:.5f}")
        if joined.rank == 0 and keeping.due:
            state.model = _text(booster)
            keeping.keep(patience.n_done, state.model_dump_json().encode())
    state.model = _text(booster)


def _text(booster: Any) -> str:
    return base64.b64encode(bytes(booster.save_raw("json"))).decode()


def _of_the_network(told: str) -> bool:
    lowered = told.lower()
    return any(word in lowered for word in ("socket", "connect", "rabit", "collective", "timeout"))

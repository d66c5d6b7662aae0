"""LightGBM on several workers: its own data-parallel mode, each worker with a part of the rows.

Workers exchange histograms over sockets of LightGBM's own, in clear and open to the network.
All grow the same trees; that of rank 0 is the result. All watch the same validation rows, so
that they stop early at the same tree. States are those of ``trainer_lightgbm``, so that one
worker can go on where several were.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from falaj.kernel.compute import Plain, task
from falaj.kernel.errors import InvalidInput
from falaj.training.adapters.trainer_lightgbm import (
    LightGbmTrainer,
    _Begun,
    _finished,
    _lightgbm,
    fixed,
)
from falaj.training.distributed.crew import CrewBroken
from falaj.training.distributed.members import Joined, Keeping, address, gather, join, report
from falaj.training.plainly import plainly
from falaj.training.stopping import Patience

_TIME_OUT_MINUTES = 2
_REPORT_EVERY = 10
_OF_THE_NETWORK = re.compile("socket|connect|network|linker", re.IGNORECASE)


@task
def lightgbm_member(item: Plain) -> Plain:
    """One worker's part of a fit; the model at rank 0, None elsewhere.

    Args:
        item: ``every_seconds``, how much work may be lost with a worker; ``host``, where
            others reach it, if that is not for it to find out.
    """
    joined = join()
    host, port = address(item.get("host"))
    machines = gather(f"{host}:{port}")
    full = LightGbmTrainer().parameters(joined.shared["params"])
    n_trees, rounds = full.pop("n_trees"), full.pop("early_stopping_rounds")
    full.pop("checkpoint_rounds")
    settings: dict[str, Any] = {
        **full, **fixed(joined.part.target),
        "seed": joined.shared["seed"], "data_random_seed": joined.shared["seed"],
    }  # fmt: skip
    if joined.n_workers > 1:
        settings |= {
            "tree_learner": "data",
            "machines": ",".join(machines),
            "num_machines": joined.n_workers,
            "local_listen_port": port,
            "pre_partition": True,
            "time_out": _TIME_OUT_MINUTES,
        }
    state = _Begun(patience=Patience(rounds=rounds))
    if joined.last is not None:
        state = _Begun.model_validate_json(joined.last)
    if state.patience.n_done < n_trees and not state.patience.over:
        try:
            _grow(joined, state, settings, n_trees, Keeping(item["every_seconds"]))
        except _lightgbm().basic.LightGBMError as error:
            if joined.n_workers > 1 and _OF_THE_NETWORK.search(str(error)):
                raise CrewBroken(f"LightGBM lost another worker: {error}.") from None
            raise InvalidInput(
                f"LightGBM refused the rows or parameters: {error}.",
                hint="Check the parameters and the number of rows of each worker.",
            ) from None
    if joined.rank:
        return None
    fitted = _finished(state, joined.shared["encoding"])
    return plainly(replace(fitted, facts={**fitted.facts, "n_workers": float(joined.n_workers)}))


def _grow(
    joined: Joined, state: _Begun, settings: dict[str, Any], n_trees: int, keeping: Keeping
) -> None:
    """Grow the trees that are left; ``state`` holds them all afterwards."""
    lightgbm = _lightgbm()
    rows, watched = joined.part, joined.shared["validation"]
    names = [f"f{place}" for place in range(len(joined.shared["encoding"].features))]
    data = lightgbm.Dataset(
        rows.matrix, rows.labels, weight=rows.weights, feature_name=names, params=settings
    )

    def watch(now: Any) -> None:
        loss, patience = now.evaluation_result_list[0][2], state.patience
        patience.saw(loss)
        if joined.rank == 0 and patience.n_done % _REPORT_EVERY == 0:
            report(patience.n_done / n_trees, f"tree {patience.n_done}, loss {loss:.5f}")
        if joined.rank == 0 and keeping.due:
            text = now.model.model_to_string(num_iteration=-1)
            kept = state.model_copy(update={"text": text})
            keeping.keep(patience.n_done, kept.model_dump_json().encode())
        if patience.over:
            raise lightgbm.callback.EarlyStopException(now.iteration, now.evaluation_result_list)

    booster = lightgbm.train(
        settings,
        data,
        num_boost_round=n_trees - state.patience.n_done,
        valid_sets=[lightgbm.Dataset(watched.matrix, watched.labels, reference=data)],
        init_model=lightgbm.Booster(model_str=state.text) if state.text else None,
        callbacks=[watch],
    )
    state.text = str(booster.model_to_string(num_iteration=-1))

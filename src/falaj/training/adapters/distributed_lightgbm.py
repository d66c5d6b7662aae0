"""LightGBM on several workers: its own data-parallel mode, each worker with a part of the rows.

Workers exchange histograms over sockets of LightGBM's own, in clear and open to the network.
All grow the same trees; that of rank 0 is the result. All watch the same validation rows, so
that they stop early at the same tree.
"""

from __future__ import annotations

import math
import re
from typing import Any

from falaj.kernel.compute import Plain, task
from falaj.kernel.errors import InvalidInput
from falaj.training.adapters.trainer_lightgbm import _FIXED, LightGbmTrainer, _lightgbm
from falaj.training.distributed.crew import CrewBroken
from falaj.training.distributed.members import Keeping, address, gather, join, report
from falaj.training.plainly import plainly
from falaj.training.ports import FittedModel

_TIME_OUT_MINUTES = 2
_REPORT_EVERY = 10
_OF_THE_NETWORK = re.compile("socket|connect|network|linker", re.IGNORECASE)


class _Watch:
    """Stops early, tells and keeps: a callback of LightGBM whose state outlives a worker."""

    order = 30
    before_iteration = False

    def __init__(self, rank: int, n_trees: int, rounds: int, every: float, last: Any) -> None:
        self._first = rank == 0
        self._n_trees = n_trees
        self._rounds = rounds
        self._keeping = Keeping(every)
        self.best = (last["best_loss"], last["best"]) if last else (math.inf, 0)

    def __call__(self, now: Any) -> None:
        """Called by LightGBM after each tree."""
        import lightgbm

        n_done = now.iteration + 1
        loss = now.evaluation_result_list[0][2]
        if loss < self.best[0]:
            self.best = (loss, n_done)
        if self._first and n_done % _REPORT_EVERY == 0:
            report(n_done / self._n_trees, f"tree {n_done}, loss {loss:.5f}")
        if self._first and self._keeping.due:
            model = now.model.model_to_string(num_iteration=-1)
            best_loss, best = self.best
            state = {"n_done": n_done, "model": model, "best_loss": best_loss, "best": best}
            self._keeping.keep(n_done, state)
        if n_done - self.best[1] >= self._rounds:
            raise lightgbm.callback.EarlyStopException(self.best[1] - 1, [])


@task
def lightgbm_member(item: Plain) -> Plain:
    """One worker's part of a fit; the model at rank 0, None elsewhere.

    Args:
        item: ``every_seconds``, how much work may be lost with a worker; ``host``, where
            others reach it, if that is not for it to find out.
    """
    joined = join()
    lightgbm, shared = _lightgbm(), joined.shared
    host, port = address(item.get("host"))
    machines = gather(f"{host}:{port}")
    full = LightGbmTrainer().parameters(shared["params"])
    n_trees, rounds = full.pop("n_trees"), full.pop("early_stopping_rounds")
    last = joined.last
    n_done = last["n_done"] if last else 0
    settings: dict[str, Any] = {**full, **_FIXED, "seed": shared["seed"]}
    if joined.n_workers > 1:
        settings |= {
            "tree_learner": "data",
            "machines": ",".join(machines),
            "num_machines": joined.n_workers,
            "local_listen_port": port,
            "pre_partition": True,
            "time_out": _TIME_OUT_MINUTES,
        }
    encoding, watched = shared["encoding"], shared["validation"]
    names = [f"f{place}" for place in range(len(encoding.features))]
    rows = joined.part
    data = lightgbm.Dataset(rows.matrix, rows.labels, feature_name=names, params=settings)
    watch = _Watch(joined.rank, n_trees, rounds, item["every_seconds"], last)
    try:
        booster = lightgbm.train(
            settings,
            data,
            num_boost_round=max(0, n_trees - n_done),
            valid_sets=[lightgbm.Dataset(watched.matrix, watched.labels, reference=data)],
            init_model=lightgbm.Booster(model_str=last["model"]) if last else None,
            callbacks=[watch],
        )
    except lightgbm.basic.LightGBMError as error:
        if joined.n_workers > 1 and _OF_THE_NETWORK.search(str(error)):
            raise CrewBroken(f"LightGBM lost another worker: {error}.") from None
        raise InvalidInput(
            f"LightGBM refused the rows or parameters: {error}.",
            hint="Check the parameters and the number of rows of each worker.",
        ) from None
    if joined.rank:
        return None
    best = watch.best[1] or booster.current_iteration()
    gain = booster.feature_importance("gain", iteration=best)
    total = float(gain.sum()) or 1.0
    fitted = FittedModel(
        format=LightGbmTrainer.name,
        data=booster.model_to_string(num_iteration=best).encode(),
        encoding=encoding,
        facts={
            "best_iteration": float(best),
            "n_trees_tried": float(booster.num_trees()),
            "n_workers": float(joined.n_workers),
        },
        importance={
            name: float(share) / total for name, share in zip(encoding.names, gain, strict=True)
        },
    )
    return plainly(fitted)

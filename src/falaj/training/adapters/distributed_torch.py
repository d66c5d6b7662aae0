"""PyTorch on several workers: DistributedDataParallel over gloo on CPUs, NCCL on GPUs.

Each worker learns from its part of the rows; gradients are averaged after each batch. The worker
of rank 0 judges each epoch on all validation rows and says whether another one follows. States
are those of ``trainer_torch``, so that one worker can go on where several were. The loop is the
plain one, whatever ``loop`` says.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from falaj.kernel.compute import Plain, task
from falaj.training import networks
from falaj.training.adapters.trainer_torch import TorchTrainer, _Batch, _finished, _Fit, _placement
from falaj.training.distributed.crew import CrewBroken
from falaj.training.distributed.members import Joined, Keeping, address, gather, join, report
from falaj.training.extras import library
from falaj.training.plainly import plainly, rebuilt_from

_TIME_OUT = timedelta(minutes=2)
_OF_THE_NETWORK = re.compile("gloo|nccl|connection|socket|peer|timed out", re.IGNORECASE)


class _Checkpoints:
    """The state to begin with for every worker; that of rank 0 keeps new ones."""

    def __init__(self, last: bytes | None, keeping: Keeping | None) -> None:
        self._last = last
        self._keeping = keeping

    def last(self) -> bytes | None:
        return self._last

    def keep(self, n_done: int, state: Callable[[], bytes]) -> None:
        if self._keeping is not None and self._keeping.due:
            self._keeping.keep(n_done, state())


class _CrewFit(_Fit):
    """A fit whose gradients are those of all workers."""

    spread: Any = None
    """The network as DistributedDataParallel sees it."""

    def loss(self, batch: _Batch) -> Any:
        """The loss of this worker's batch, through what averages its gradient."""
        own, self.module = self.module, self.spread
        try:
            return super().loss(batch)
        finally:
            self.module = own


@task
def torch_member(item: Plain) -> Plain:
    """One worker's part of a fit; the model at rank 0, None elsewhere.

    Args:
        item: ``every_seconds``, how much work may be lost with a worker; ``host``, where
            others reach it, if that is not for it to find out.
    """
    joined = join()
    torch = library("torch", "torch")
    params = TorchTrainer().parameters(joined.shared["params"])
    torch.set_num_threads(params["num_threads"])
    where = _placement(torch, params)
    standard = gather(plainly(networks.standard_of(joined.part)))
    keeping = Keeping(item["every_seconds"]) if joined.rank == 0 else None
    torch.manual_seed(joined.shared["seed"])
    fit = _CrewFit(
        joined.part,
        joined.shared["validation"],
        params,
        where,
        report if joined.rank == 0 else _untold,
        _Checkpoints(joined.last, keeping),
        rebuilt_from(standard[0]),
    )
    if joined.last is None:
        torch.manual_seed(joined.shared["seed"] + joined.rank)  # each its own order of rows
    if fit.patience.n_done < params["epochs"] and not fit.patience.over:
        try:
            with _together(torch, joined, item.get("host"), gpu=where.device == "cuda"):
                _learn(torch, fit)
        except RuntimeError as error:
            if _OF_THE_NETWORK.search(str(error)):
                told = str(error).splitlines()[0][:200]
                raise CrewBroken(f"PyTorch lost another worker: {told}.") from None
            raise
    if joined.rank:
        return None
    fitted = _finished(fit, joined.shared["encoding"])
    return plainly(replace(fitted, facts={**fitted.facts, "n_workers": float(joined.n_workers)}))


@contextmanager
def _together(torch: Any, joined: Joined, host: str | None, *, gpu: bool) -> Iterator[None]:
    """The process group of the crew."""
    if host is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    name, port = address(host)
    met = gather(f"tcp://{name}:{port}")[0]
    torch.distributed.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=met,
        rank=joined.rank,
        world_size=joined.n_workers,
        timeout=_TIME_OUT,
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _learn(torch: Any, fit: _CrewFit) -> None:
    """Epoch by epoch; a worker with a batch less waits for the others."""
    fit.spread = torch.nn.parallel.DistributedDataParallel(fit.module)
    try:
        going_on = True
        while going_on:
            with fit.spread.join():
                for batch in fit.batches():
                    fit.optimizer.zero_grad()
                    fit.loss(batch).backward()
                    fit.optimizer.step()
            decided = torch.tensor([float(fit.ended_epoch())], device=fit.where.device)
            torch.distributed.broadcast(decided, 0)
            going_on = bool(decided.item())
    finally:
        # Given up after the process group, its end waits for a thread that waits for this one.
        fit.spread = None
        gc.collect()


def _untold(_share: float, _message: str) -> None:
    """What the others would tell is told by the worker of rank 0."""

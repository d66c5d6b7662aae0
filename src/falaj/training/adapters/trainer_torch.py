"""Dense networks by PyTorch: a plain loop, or Lightning's; served as ONNX without PyTorch.

After each epoch the state can be kept: weights, the optimiser's moments, the state of the
random numbers, the best weights so far. On a CPU a fit that is taken up again ends with the
same bytes as one that was never interrupted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import InvalidInput
from falaj.training import networks
from falaj.training.encoding import Encoding
from falaj.training.environment import code_version
from falaj.training.extras import library
from falaj.training.model import CodeVersion
from falaj.training.networks import FORMAT, Network, Standard
from falaj.training.parameters import at_least_one, check_learnable, completed
from falaj.training.placement import Placement, placed
from falaj.training.ports import UNKEPT, Checkpoints, FittedModel, Report, Rows, Traits
from falaj.training.rowmetrics import loss_of
from falaj.training.stopping import Patience
from falaj.training.targets import Task

DEFAULTS: dict[str, Any] = {
    "hidden": [64, 32],
    "epochs": 50,
    "early_stopping_rounds": 5,
    "batch_rows": 512,
    "learning_rate": 1e-3,
    "weight_decay": 1e-4,
    "dropout": 0.0,
    "loop": "plain",
    "device": "auto",
    "precision": "auto",
    "num_threads": 1,
}
LOOPS = ("plain", "lightning")
_MOST_UNITS, _MOST_LAYERS = 8_192, 16


class TorchTrainer:
    """Fits dense networks with AdamW on the cross-entropy, of numbers on the squared error.

    Early stopping finds the best epoch.
    """

    name = "torch"
    traits = Traits(
        identical=True,
        stops_early=True,
        resumes=True,
        tasks=("binary", "regression", "classes"),
    )

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults with the given parameters over them; see ``Trainer.parameters``."""
        result = completed("PyTorch", given, DEFAULTS)
        at_least_one(result, "epochs", "early_stopping_rounds", "batch_rows", "num_threads")
        hidden = result["hidden"]
        if len(hidden) > _MOST_LAYERS or not all(
            isinstance(n, int) and 1 <= n <= _MOST_UNITS for n in hidden
        ):
            raise InvalidInput(
                f"The parameter 'hidden' is {hidden!r}.",
                hint=f"Give up to {_MOST_LAYERS} widths between 1 and {_MOST_UNITS}.",
            )
        if result["loop"] not in LOOPS:
            raise InvalidInput(
                f"The parameter 'loop' is {result['loop']!r}.", hint="Choose plain or lightning."
            )
        if not 0 <= result["dropout"] < 1:
            raise InvalidInput(
                f"The parameter 'dropout' is {result['dropout']!r}.", hint="Give 0 to below 1."
            )
        placed(device=result["device"], precision=result["precision"], has_cuda=True, has_bf16=True)
        return result

    def fit(
        self,
        train: Rows,
        validation: Rows,
        encoding: Encoding,
        *,
        params: Mapping[str, Any],
        seed: int,
        report: Report,
        checkpoints: Checkpoints = UNKEPT,
    ) -> FittedModel:
        """Fit with early stopping on the validation rows; see ``Trainer.fit``."""
        torch = library("torch", "torch")
        check_learnable(train, validation)
        full = self.parameters(params)
        torch.set_num_threads(full["num_threads"])
        where = _placement(torch, full)
        devices = [torch.cuda.current_device()] if where.device == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # whoever else draws numbers here is not moved
            torch.manual_seed(seed)
            fit = _Fit(train, validation, full, where, report, checkpoints)
            if fit.patience.n_done < full["epochs"] and not fit.patience.over:
                (_by_lightning if full["loop"] == "lightning" else _plainly)(fit)
        return _finished(fit, encoding)

    def scores(
        self, fitted: FittedModel, matrix: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """The scores by PyTorch."""
        torch = library("torch", "torch")
        found = networks.unpacked(fitted.data)
        with torch.inference_mode():
            x = torch.from_numpy(networks.read_as(matrix, found.centers, found.scales))
            for place, (weights, offsets) in enumerate(found.layers):
                x = x if place == 0 else torch.relu(x)
                x = torch.nn.functional.linear(
                    x, torch.from_numpy(weights), torch.from_numpy(offsets)
                )
            return answers_of(x.double().numpy(), fitted.target.task)

    def code(self, params: Mapping[str, Any] | None = None) -> CodeVersion:
        """This module."""
        return code_version(type(self))


def answers_of(outputs: npt.NDArray[np.float64], task: Task) -> npt.NDArray[np.float64]:
    """What the outputs of a network [rows, outputs] say; see ``Trainer.scores``."""
    if task == "regression":
        return outputs[:, 0]
    if task == "binary":
        found: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(outputs[:, 0], -500, 500)))
        return found
    raised = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return shares


def _placement(torch: Any, params: Mapping[str, Any]) -> Placement:
    has_cuda = bool(torch.cuda.is_available())
    return placed(
        device=params["device"],
        precision=params["precision"],
        has_cuda=has_cuda,
        has_bf16=has_cuda and bool(torch.cuda.is_bf16_supported()),
    )


@dataclass
class _Batch:
    rows: Any
    labels: Any
    weights: Any


class _Fit:
    """One fit: the network, its optimiser, and where it stands."""

    def __init__(
        self,
        train: Rows,
        validation: Rows,
        params: Mapping[str, Any],
        where: Placement,
        report: Report,
        checkpoints: Checkpoints,
        standard: Standard | None = None,
    ) -> None:
        torch = library("torch", "torch")
        self.torch, self.params, self.where = torch, params, where
        self._report, self._checkpoints = report, checkpoints
        self.target = train.target
        self.standard = standard or networks.standard_of(train)
        self._train = _Batch(*(self._tensor(one) for one in self._arrays(train)))
        self._validation = validation
        self._watched = self._tensor(self._arrays(validation)[0]).to(where.device)
        self.module = self._made(2 * train.matrix.shape[1]).to(where.device)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=params["learning_rate"],
            weight_decay=params["weight_decay"],
        )
        self.patience = Patience(rounds=params["early_stopping_rounds"])
        self._best = self._weights()
        if (kept := checkpoints.last()) is not None:
            self._go_on(networks.unpacked_arrays(kept))

    def _arrays(self, rows: Rows) -> tuple[Any, Any, Any]:
        weights = np.ones(len(rows.labels)) if rows.weights is None else rows.weights
        standard = self.standard
        read = networks.read_as(rows.matrix, standard.centers, standard.scales)
        labels = (rows.labels - standard.label_center) / standard.label_scale
        return read, labels.astype(np.float32), weights.astype(np.float32)

    def _tensor(self, array: Any) -> Any:
        made = self.torch.from_numpy(np.ascontiguousarray(array))
        return made.pin_memory() if self.where.pinned else made

    def _made(self, n_inputs: int) -> Any:
        nn = self.torch.nn
        widths = [n_inputs, *self.params["hidden"]]
        layers: list[Any] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
            layers += [nn.Dropout(self.params["dropout"])] if self.params["dropout"] else []
        return nn.Sequential(*layers, nn.Linear(widths[-1], len(self.target.outputs)))

    def batches(self) -> Iterator[_Batch]:
        """The training rows of one epoch in a new random order."""
        order = self.torch.randperm(len(self._train.labels))
        device, pinned = self.where.device, self.where.pinned
        for places in order.split(self.params["batch_rows"]):
            parts = (self._train.rows, self._train.labels, self._train.weights)
            chosen = [part[places] for part in parts]
            chosen = [one.pin_memory() if pinned else one for one in chosen]
            yield _Batch(*(one.to(device, non_blocking=pinned) for one in chosen))

    def loss(self, batch: _Batch) -> Any:
        """The weighted mean loss of a batch."""
        with self.torch.autocast(self.where.device, self.torch.bfloat16, enabled=self.where.bf16):
            outputs = self.module(batch.rows)
        of = self.torch.nn.functional
        if self.target.classes:
            losses = of.cross_entropy(outputs.float(), batch.labels.long(), reduction="none")
        else:
            learn = (
                of.mse_loss
                if self.target.task == "regression"
                else of.binary_cross_entropy_with_logits
            )
            losses = learn(outputs[:, 0].float(), batch.labels, reduction="none")
        return (losses * batch.weights).sum() / batch.weights.sum()

    def ended_epoch(self) -> bool:
        """Judge the epoch, keep the state if it is due; True if another one shall follow."""
        self.module.eval()
        with self.torch.inference_mode():
            outputs = self.module(self._watched).double().cpu().numpy()
        self.module.train()
        outputs = outputs * self.standard.label_scale + self.standard.label_center
        scores = answers_of(outputs, self.target.task)
        loss = loss_of(self.target, self._validation.labels, scores)
        if self.patience.saw(loss):
            self._best = self._weights()
        done = self.patience.n_done
        self._report(done / self.params["epochs"], f"epoch {done}, loss {loss:.5f}")
        self._checkpoints.keep(done, self._state)
        return done < self.params["epochs"] and not self.patience.over

    def _weights(self) -> dict[str, Any]:
        state = self.module.state_dict()
        return {name: value.detach().cpu().numpy().copy() for name, value in state.items()}

    def _state(self) -> bytes:
        arrays = {f"now.{name}": value for name, value in self._weights().items()}
        arrays |= {f"best.{name}": value for name, value in self._best.items()}
        for place, moments in self.optimizer.state_dict()["state"].items():
            arrays |= {f"adam.{place}.{name}": one.cpu().numpy() for name, one in moments.items()}
        arrays["random"] = self.torch.get_rng_state().numpy()
        if self.where.device == "cuda":
            arrays["random_cuda"] = self.torch.cuda.get_rng_state().numpy()
        arrays["patience"] = np.frombuffer(self.patience.model_dump_json().encode(), np.uint8)
        return networks.packed_arrays(arrays)

    def _go_on(self, arrays: dict[str, Any]) -> None:
        torch = self.torch
        self.patience = Patience.model_validate_json(arrays["patience"].tobytes())
        self._best = _beginning(arrays, "best.")
        now = _beginning(arrays, "now.")
        self.module.load_state_dict({name: torch.from_numpy(one) for name, one in now.items()})
        moments: dict[int, dict[str, Any]] = {}
        for name, one in _beginning(arrays, "adam.").items():
            place, _, key = name.partition(".")
            moments.setdefault(int(place), {})[key] = torch.from_numpy(one)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        torch.set_rng_state(torch.from_numpy(arrays["random"]))
        if self.where.device == "cuda":
            torch.cuda.set_rng_state(torch.from_numpy(arrays["random_cuda"]))

    def network(self) -> Network:
        """The network of the best epoch; a predicted number is in the label's own unit."""
        names = sorted({int(name.partition(".")[0]) for name in self._best})
        layers = tuple((self._best[f"{n}.weight"], self._best[f"{n}.bias"]) for n in names)
        standard = self.standard
        weights, offsets = layers[-1]
        scale = np.float32(standard.label_scale)
        last = (weights * scale, offsets * scale + np.float32(standard.label_center))
        return Network(standard.centers, standard.scales, (*layers[:-1], last))


def _finished(fit: _Fit, encoding: Encoding) -> FittedModel:
    return FittedModel(
        format=FORMAT,
        data=fit.network().packed(),
        encoding=encoding,
        facts={
            "best_iteration": float(fit.patience.best),
            "n_epochs_tried": float(fit.patience.n_done),
            "device": fit.where.device,
            "precision": "bf16" if fit.where.bf16 else "float32",
        },
    )


def _beginning(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): one for name, one in arrays.items() if name.startswith(prefix)
    }


def _plainly(fit: _Fit) -> None:
    """Epoch by epoch, batch by batch."""
    going_on = True
    while going_on:
        for batch in fit.batches():
            fit.optimizer.zero_grad()
            fit.loss(batch).backward()
            fit.optimizer.step()
        going_on = fit.ended_epoch()


def _by_lightning(fit: _Fit) -> None:
    """The same by Lightning's trainer; ours are the batches, the loss and the end of an epoch."""
    lightning = library("lightning", "torch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # it tells what it found

    class Batches:
        def __iter__(self) -> Iterator[_Batch]:
            return fit.batches()

    def end(_callback: Any, trainer: Any, _module: Any) -> None:
        if not fit.ended_epoch():
            trainer.should_stop = True

    module_type: Any = type(
        "Fitting",
        (lightning.LightningModule,),
        {
            "training_step": lambda _self, batch, _place: fit.loss(batch),
            "configure_optimizers": lambda _self: fit.optimizer,
            "transfer_batch_to_device": lambda _self, batch, _device, _loader: batch,
        },
    )
    callback_type: Any = type("Ending", (lightning.Callback,), {"on_train_epoch_end": end})
    module = module_type()
    module.network = fit.module
    lightning.Trainer(
        max_epochs=fit.params["epochs"] - fit.patience.n_done,
        accelerator="gpu" if fit.where.device == "cuda" else "cpu",
        devices=1,
        callbacks=[callback_type()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, train_dataloaders=Batches())

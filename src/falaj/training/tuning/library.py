"""Optuna, imported when it is needed; its samplers and pruners by the names of a study."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import InvalidInput
from falaj.training.tuning.model import Pruner, StudySpec

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


class NoOptuna(InvalidInput):
    """Tuning needs Optuna, which is not installed."""

    code = "no-optuna"


def imported() -> Any:
    """Optuna; raises NoOptuna without the extra ``tuning``."""
    if importlib.util.find_spec("optuna") is None:
        raise NoOptuna(
            "Tuning needs the package optuna, which is not installed.",
            hint="Install it with the extra: pip install 'falaj[tuning]'.",
        )
    found = importlib.import_module("optuna")
    # It tells each study that is made in memory, which here is each one that is opened.
    logging.getLogger("optuna.storages._in_memory").setLevel(logging.WARNING)
    return found


def sampler_of(spec: StudySpec, number: int) -> BaseSampler:
    """What draws the parameters of one trial.

    Each trial has a sampler with a seed of its own, made of the study's and of its number. So
    what is drawn depends on the trials that have ended before alone, and not on what else
    this process has drawn: a study that is taken up again goes on as it would have.
    """
    samplers = imported().samplers
    text = f"{spec.seed}:{number}".encode()
    seed = int.from_bytes(hashlib.sha256(text).digest()[:4]) & 0x7FFF_FFFF
    made: BaseSampler = {
        "tpe": samplers.TPESampler,
        "random": samplers.RandomSampler,
        "nsga2": samplers.NSGAIISampler,
    }[spec.sampler](seed=seed)
    return made


def pruner_of(pruner: Pruner) -> BasePruner:
    """What prunes, as Optuna has it."""
    pruners = imported().pruners
    made: BasePruner
    if pruner.kind == "median":
        made = pruners.MedianPruner(
            n_startup_trials=pruner.n_startup_trials,
            n_warmup_steps=pruner.n_warmup_steps,
            interval_steps=pruner.interval_steps,
        )
    elif pruner.kind == "halving":
        made = pruners.SuccessiveHalvingPruner(
            min_resource=pruner.min_resource, reduction_factor=pruner.reduction_factor
        )
    elif pruner.kind == "hyperband":
        made = pruners.HyperbandPruner(
            min_resource=pruner.min_resource,
            max_resource=pruner.max_resource or "auto",
            reduction_factor=pruner.reduction_factor,
        )
    else:
        made = pruners.NopPruner()
    return made

"""Fifty LightGBM trials with pruning on two cores: through a platform, and with Optuna alone.

The same objective, sampler, pruner and number of workers. What a trial fits is taken from a
list by its number, so that all sides do the same work whatever their samplers draw; they
still draw, report and ask. Peers: two joblib processes over a journal file, as Optuna advises
for processes; and Optuna's own two threads, which keep nothing.

Ours keeps everything: studies, trials, a nested run for each, in SQLite with full sync.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import Row, arguments, in_turn, median, report

import falaj
from falaj.kernel.settings import Settings
from falaj.training.tuning.model import Pruner
from falaj.wiring import setup

WORKERS, EVERY = 2, 5
STARTUP, WARMUP = 5, 10


@dataclass(frozen=True)
class Size:
    n_rows: int
    n_trees: int
    n_trials: int
    rounds: int


SIZES = {"small": Size(4_000, 40, 12, 1), "full": Size(40_000, 150, 50, 5)}


def rows_of(n_rows: int) -> tuple[Any, Any]:
    """Made-up rows of 20 inputs with a label that some of them tell."""
    chance = np.random.default_rng(7)
    matrix = chance.normal(size=(n_rows, 20)).astype(np.float32)
    score = matrix[:, 0] + matrix[:, 1] * matrix[:, 2] + chance.normal(size=n_rows)
    return matrix, (score > 0).astype(np.float64)


def tried(number: int) -> dict[str, Any]:
    """What the trial of that number fits."""
    chance = np.random.default_rng(number)
    return {
        "num_leaves": int(chance.integers(8, 96)),
        "learning_rate": float(np.exp(chance.uniform(np.log(0.01), np.log(0.3)))),
        "feature_fraction": float(chance.uniform(0.4, 1)),
    }


class Objective:
    """Fits on the first three quarters of the rows, reports the loss on the rest."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.parts: Any = None

    def __call__(self, trial: optuna.Trial) -> float:
        trial.suggest_int("num_leaves", 8, 96)
        trial.suggest_float("learning_rate", 0.01, 0.3, log=True)
        trial.suggest_float("feature_fraction", 0.4, 1)
        if self.parts is None:
            self.parts = rows_of(self.size.n_rows)
        matrix, labels = self.parts
        cut = len(labels) * 3 // 4
        settings = {**tried(trial.number), "objective": "binary", "metric": "binary_logloss",
                    "num_threads": 1, "verbosity": -1, "seed": 1}  # fmt: skip
        data = lightgbm.Dataset(matrix[:cut], labels[:cut], params=settings)
        watched = lightgbm.Dataset(matrix[cut:], labels[cut:], reference=data)
        seen: list[float] = []

        def tell(state: Any) -> None:
            seen.append(state.evaluation_result_list[0][2])
            if state.iteration % EVERY == 0:
                trial.report(seen[-1], state.iteration)
                if trial.should_prune():
                    raise optuna.TrialPruned

        lightgbm.train(settings, data, self.size.n_trees, valid_sets=[watched], callbacks=[tell])
        return seen[-1]


def pruner() -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARMUP)


def some_of(file: str, size: Size, n_trials: int) -> None:
    """What one joblib process does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(file))
    study = optuna.load_study(study_name="peer", storage=storage, pruner=pruner())
    study.optimize(Objective(size), n_trials=n_trials)


def by_joblib(folder: Path, size: Size, n: int) -> optuna.Study:
    """Two processes over a journal file."""
    file = str(folder / f"journal-{n}")
    storage = JournalStorage(JournalFileBackend(file))
    study = optuna.create_study(study_name="peer", storage=storage, pruner=pruner())
    share = size.n_trials // WORKERS
    joblib.Parallel(n_jobs=WORKERS)(
        joblib.delayed(some_of)(file, size, share) for _ in range(WORKERS)
    )
    return study


def by_threads(size: Size) -> optuna.Study:
    """Two threads, in memory."""
    study = optuna.create_study(pruner=pruner())
    study.optimize(Objective(size), n_trials=size.n_trials, n_jobs=WORKERS)
    return study


@dataclass(frozen=True)
class Outcome:
    """What a study came to."""

    n_trials: int
    n_pruned: int
    best: float

    @classmethod
    def of(cls, study: optuna.Study) -> Outcome:
        states = [trial.state.name for trial in study.trials]
        return cls(len(states), states.count("PRUNED"), round(study.best_value, 6))


def main() -> None:
    given = arguments(__doc__ or "")
    size = SIZES[given.size]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    done: dict[str, list[Outcome]] = {"ours": [], "joblib": [], "threads": []}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        setup.initialise(Settings.read(folder), owner="bench")
        with falaj.open(folder) as platform:
            settings = Pruner(kind="median", n_startup_trials=STARTUP, n_warmup_steps=WARMUP)

            def ours() -> None:
                found = platform.training.tune_here(
                    Objective(size), study=f"ours-{len(done['ours'])}", n_trials=size.n_trials,
                    pruner=settings, workers=WORKERS,
                )  # fmt: skip
                done["ours"].append(Outcome.of(found.optuna))

            works: list[Callable[[], None]] = [
                ours,
                lambda: done["joblib"].append(
                    Outcome.of(by_joblib(folder, size, len(done["joblib"])))
                ),
                lambda: done["threads"].append(Outcome.of(by_threads(size))),
            ]
            seconds = [median(one) for one in in_turn(*works, rounds=size.rounds, warm=1)]
    for name, outcomes in done.items():
        print(f"{name}: {outcomes}")
        if any(one.n_trials != size.n_trials for one in outcomes):
            raise SystemExit(f"{name} did not try {size.n_trials} times")
    told = f"{size.n_trials} trials, {size.n_rows:,} rows, {size.n_trees} trees"
    versions = {name: version(name) for name in ("optuna", "lightgbm", "joblib")}
    rows = [
        Row("LightGBM trials, median pruner, 2 workers", told, "s", seconds[0], seconds[place],
            name, goal=goal, met=None if not goal else seconds[place] >= seconds[0],
            versions=versions)
        for place, name, goal in (
            (1, "Optuna + joblib, journal file", "≥ 1"),
            (2, "Optuna's threads, kept nowhere", ""),
        )
    ]  # fmt: skip
    report("training", "Tuning", rows, given)


if __name__ == "__main__":
    main()

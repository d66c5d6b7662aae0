"""What keeping a trial costs, beside its objective: our storage and those of Optuna.

An objective that does nothing draws three parameters and reports twenty values. Optuna's
storages: its RDB storage on SQLite, its journal file, and its memory (the floor).
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import Row, arguments, in_turn, median, report

import falaj
from falaj.kernel.settings import Settings
from falaj.wiring import setup

REPORTS = 20
N_TRIALS = {"small": (20,), "full": (20, 50, 100)}


def objective(trial: optuna.Trial) -> float:
    """Draws and reports; computes nothing."""
    x = trial.suggest_float("x", 0, 1)
    trial.suggest_float("y", 0, 1)
    trial.suggest_categorical("kind", ["a", "b"])
    for step in range(REPORTS):
        trial.report(x * step, step)
        trial.should_prune()
    return x


def by_optuna(storage: optuna.storages.BaseStorage | None, n_trials: int) -> None:
    """With Optuna alone."""
    pruner = optuna.pruners.NopPruner()
    study = optuna.create_study(storage=storage, pruner=pruner)
    study.optimize(objective, n_trials=n_trials)


def main() -> None:
    given = arguments(__doc__ or "")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    rows = []
    names = itertools.count()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        setup.initialise(Settings.read(folder), owner="bench")
        with falaj.open(folder) as platform:
            for n in N_TRIALS[given.size]:

                def ours(n: int = n) -> None:
                    platform.training.tune_here(objective, study=f"study-{next(names)}", n_trials=n)

                def rdb(n: int = n) -> None:
                    by_optuna(RDBStorage(f"sqlite:///{folder}/rdb-{next(names)}"), n)

                def journal(n: int = n) -> None:
                    backend = JournalFileBackend(f"{folder}/journal-{next(names)}")
                    by_optuna(JournalStorage(backend), n)

                def memory(n: int = n) -> None:
                    by_optuna(None, n)

                seconds = [median(one) for one in in_turn(ours, rdb, journal, memory, rounds=3)]
                took = [1e3 * one / n for one in seconds]
                for place, name in ((1, "Optuna, RDB on SQLite"), (2, "Optuna, journal file")):
                    rows.append(Row("keeping a trial of 20 reports", f"{n} trials", "ms", took[0],
                                    took[place], name,
                                    versions={"optuna": version("optuna")}))  # fmt: skip
                rows.append(Row("keeping a trial of 20 reports", f"{n} trials", "ms", took[0],
                                floor=took[3]))  # fmt: skip
    report("training", "Storage of studies", rows, given)


if __name__ == "__main__":
    main()

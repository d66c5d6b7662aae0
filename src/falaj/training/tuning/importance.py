"""Which parameters of a study mattered, by Optuna's own measure (PED-ANOVA)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from falaj.training.tuning.model import StudySpec, TrialRecord, TrialState

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LEAST_TRIALS = 2


def importances(spec: StudySpec, trials: Sequence[TrialRecord]) -> dict[str, dict[str, float]]:
    """For each metric, the share of each parameter; empty if there is too little to tell.

    PED-ANOVA (Watanabe et al., 2023). Raises NotInstalled without the extra ``tuning``.
    """
    complete = [one for one in trials if one.state is TrialState.COMPLETE and one.params]
    if len(complete) < LEAST_TRIALS:
        return {}
    from falaj.training.tuning.library import imported

    optuna = imported()
    from falaj.training.tuning.storage import StudyStorage

    study = StudyStorage(spec, complete, numbered=False).study()
    found = {}
    for place, (metric, direction) in enumerate(zip(spec.metrics, spec.directions, strict=True)):

        def loss(
            trial: FrozenTrial, place: int = place, up: bool = direction == "maximize"
        ) -> float:
            value = float((trial.values or ())[place])
            return -value if up else value

        with warnings.catch_warnings():
            # It warns that it tells what makes the target low: so it is given a loss.
            warnings.simplefilter("ignore", UserWarning)
            shares = optuna.importance.get_param_importances(study, target=loss)
        found[metric] = {name: float(share) for name, share in shares.items()}
    return found

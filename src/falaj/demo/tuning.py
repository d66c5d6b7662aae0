"""The chapter of the demo that tunes: a few trials beside the version that was trained."""

from __future__ import annotations

from falaj.demo.flights import followed
from falaj.demo.story import Story
from falaj.interfaces.platform import Platform
from falaj.models.model import ModelVersion
from falaj.training.model import TrainingRequest
from falaj.training.tuning.model import Pruner
from falaj.training.tuning.request import Budget, TuningRequest
from falaj.training.tuning.space import Floats, Integers

N_TRIALS = 4
TREES = Budget(first=4, most=12)
STUDY = "flight-delay-trees"


def tuning_request(version: ModelVersion, training_set: str) -> TuningRequest:
    """What the demo tunes: the leaves and the pace of small models, on the version's own rows."""
    return TuningRequest(
        study=STUDY,
        training=TrainingRequest(model=version.model, training_set=training_set),
        space={
            "num_leaves": Integers(low=8, high=128, log=True),
            "learning_rate": Floats(low=0.05, high=0.3, log=True),
        },
        n_trials=N_TRIALS,
        metrics=("auc",),
        directions=("maximize",),
        budget=TREES,
        pruner=Pruner(kind="halving", min_resource=TREES.first),
        train_best=False,
        workers=1,
    )


def tune(platform: Platform, story: Story, version: ModelVersion) -> None:
    """Tune on the training set of a version, and tell each trial."""
    with story.chapter("Tuned", f"Optuna, {N_TRIALS} small models; what falls behind is pruned."):
        training_set = platform.runs.get(version.run).training_set or ""
        job = platform.training.tune(tuning_request(version, training_set))
        result = followed(platform, story, job, f"tuning {version.model}")
        trials = platform.studies.trials(result["study"])
        story.table(
            ["trial", "leaves", "learning rate", "state", "trees", "validation AUC"],
            [
                [
                    trial.number,
                    trial.params.get("num_leaves"),
                    trial.params.get("learning_rate"),
                    trial.state.value,
                    max(trial.intermediate, default=0),
                    trial.values[0] if trial.values else None,
                ]
                for trial in trials
            ],
        )
        story.done(f"each trial is a run nested in {result['study']}", trials=len(trials))

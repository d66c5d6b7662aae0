"""Every trainer makes a version that scores as it did when it was trained, by the whole way."""

from importlib.util import find_spec

import numpy as np
import pytest

from falaj.kernel.jobs import JobState
from falaj.training.model import TRAIN_JOB, TrainingRequest
from falaj.training.options import Calibrating, ClassWeights, CrossValidation
from falaj.training.products import fetched_model
from falaj.training.training_sets import part_of

FUNCTION = """
def fit(train, validation, *, names, seed, options):
    import lightgbm

    booster = lightgbm.train(
        {"objective": "binary", "verbosity": -1, "num_threads": 1, "seed": seed, **options},
        lightgbm.Dataset(train.matrix, train.labels, weight=train.weights), 20,
    )
    return {"format": "lightgbm", "model": booster.model_to_string().encode(),
            "facts": {"n_rows": len(train.labels)}}
"""
TREES = {"n_trees": 40, "num_threads": 1}
SETTINGS = {
    "lightgbm": {**TREES, "min_data_in_leaf": 50, "num_leaves": 15},
    "xgboost": {**TREES, "max_depth": 4},
    "sklearn": {"estimator": "gradient_boosting", "n_estimators": 20},
    "torch": {"epochs": 4, "hidden": [16]},
    "python": {"function": "mine.py:fit", "options": {"num_leaves": 7}},
}


@pytest.fixture(scope="module")
def filled(made_up, tmp_path_factory):
    from falaj.kernel.database import Database, metadata

    home = tmp_path_factory.mktemp("trainers")
    database = Database(f"sqlite:///{home / 'falaj.db'}")
    metadata.create_all(database.engine)
    world = made_up.World(database, home / "home")
    world.fill(n=2500)
    (world.files._named[0] / "mine.py").write_text(FUNCTION)
    prepared = world.done("training.prepare", made_up.SPEC.model_dump(mode="json"))
    world.set_id = prepared.result["training_set"]
    yield world
    world.close()
    database.close()


def trained(world, trainer, **options):
    if trainer == "torch" and find_spec("torch") is None:
        pytest.skip("needs PyTorch: `make torch` installs it")
    request = TrainingRequest(
        model="late", trainer=trainer, training_set=world.set_id,
        params=options.pop("params", SETTINGS[trainer]), **options,
    )  # fmt: skip
    job = world.done(TRAIN_JOB, request.model_dump(mode="json"))
    assert job.state is JobState.DONE, job.error
    with world.database.reading() as connection:
        run = world.runs.get(connection, job.result["run"])
        made = world.sets.get(connection, world.set_id)
    return job.result, run, made


@pytest.mark.parametrize("trainer", sorted(SETTINGS))
def test_a_trained_model_is_packaged_and_answers_as_its_trainer_does(filled, trainer):
    result, run, made = trained(filled, trainer)
    assert result["metrics"]["validation_auc"] > 0.65
    bundle = filled.bundles.open_bundle(result["bundle"])
    assert bundle.manifest.trainer == trainer
    fitted = fetched_model(filled.blobs, run)
    rows = part_of(filled.sets.load(made), "test")
    matrix = bundle.manifest.signature.encoding.matrix(rows)
    packaged = filled.scorers.of("onnx", bundle.onnx, fitted.encoding.names).scores(matrix)
    native = filled.trainers[trainer].scores(fitted, matrix)
    np.testing.assert_allclose(packaged, native, atol=1e-5)
    assert len(np.unique(packaged)) > 10


@pytest.mark.parametrize(
    ("trainer", "method"),
    [("xgboost", "isotonic"), pytest.param("sklearn", "platt", marks=pytest.mark.nightly)],
)
def test_a_calibration_is_part_of_the_packaged_model(filled, trainer, method):
    result, run, made = trained(filled, trainer, calibration=Calibrating(method=method))
    fitted = fetched_model(filled.blobs, run)
    assert fitted.calibration.method == method
    bundle = filled.bundles.open_bundle(result["bundle"])
    assert bundle.manifest.facts["calibration"] == method
    matrix = fitted.encoding.matrix(part_of(filled.sets.load(made), "test"))
    names = fitted.encoding.names
    packaged = filled.scorers.of("onnx", bundle.onnx, names).scores(matrix)
    raw = filled.trainers[trainer].scores(fitted, matrix)
    assert np.abs(packaged - raw).max() > 1e-3
    np.testing.assert_allclose(packaged, fitted.calibration.applied(raw), atol=1e-4)


def test_cross_validation_is_logged_fold_by_fold_and_in_sum(filled):
    _, run, _ = trained(
        filled, "lightgbm", cross_validation=CrossValidation(folds=3),
        class_weights=ClassWeights(balanced=True),
    )  # fmt: skip
    with filled.database.reading() as connection:
        points = filled.runs.history(connection, run.id, "cv_auc")
    assert [point.step for point in points] == [0, 1, 2]
    values = [point.value for point in points]
    assert run.metrics["cv_mean_auc"] == pytest.approx(np.mean(values))
    assert run.metrics["cv_std_auc"] == pytest.approx(np.std(values))


@pytest.mark.nightly
def test_a_class_that_weighs_more_is_predicted_more_often(filled):
    params = {**SETTINGS["lightgbm"], "n_trees": 20}
    plain, heavy = (
        trained(filled, "lightgbm", params=params, class_weights=weights)[1]
        for weights in (None, ClassWeights(one=20.0))
    )
    matrix = part_of(filled.sets.load(trained(filled, "lightgbm")[2]), "test")
    means = [
        filled.trainer.scores(model, model.encoding.matrix(matrix)).mean()
        for model in (fetched_model(filled.blobs, run) for run in (plain, heavy))
    ]
    assert means[1] > means[0] + 0.1


@pytest.mark.parametrize(
    ("trainer", "params", "told"),
    [
        ("python", {"function": "none.py:fit"}, "does not exist"),
        ("python", {"function": "mine.py"}, "names no function"),
        ("python", {"function": "mine.py:nothing"}, "has no attribute 'nothing'"),
        ("sklearn", {"estimator": "os.system"}, "no estimator 'os.system'"),
        ("sklearn", {"estimator": "decision_tree", "criterion": "guess"}, "refused"),
        ("xgboost", {"grow_policy": "sideways"}, "refused"),
        ("torch", {"hidden": [0]}, "'hidden'"),
        ("torch", {"device": "moon"}, "'device'"),
    ],
)
def test_what_a_trainer_cannot_do_fails_the_job_with_the_reason(filled, trainer, params, told):
    request = TrainingRequest(
        model="late", trainer=trainer, training_set=filled.set_id, params=params
    )
    job = filled.done(TRAIN_JOB, request.model_dump(mode="json"))
    assert job.state is JobState.FAILED
    assert told in job.error["message"]

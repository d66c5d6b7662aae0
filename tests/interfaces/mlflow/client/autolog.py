"""A model trained under autolog, registered, and loaded by every form of address.

``autolog.py sklearn|lightgbm|xgboost``
"""

import json
import sys

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.datasets import make_classification

(flavour,) = sys.argv[1:]
x, y = make_classification(300, 6, random_state=7)
mlflow.set_experiment(f"autolog {flavour}")
getattr(mlflow, flavour).autolog()
with mlflow.start_run(run_name="first") as run:
    if flavour == "sklearn":
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression().fit(x, y)
        expected = model.predict(x)
    elif flavour == "lightgbm":
        import lightgbm

        model = lightgbm.train(
            {"objective": "binary", "verbose": -1, "num_threads": 1},
            lightgbm.Dataset(x, y),
            num_boost_round=5,
        )
        expected = model.predict(x)
    else:
        import xgboost

        model = xgboost.train({"nthread": 1}, xgboost.DMatrix(x, y), num_boost_round=5)
        expected = model.predict(xgboost.DMatrix(x))
client = MlflowClient()
found = client.get_run(run.info.run_id)
(logged,) = mlflow.search_logged_models(
    experiment_ids=[found.info.experiment_id], output_format="list"
)
name = f"made-by-{flavour}"
versions = [
    mlflow.register_model(source, name).version
    for source in (logged.model_uri, f"runs:/{run.info.run_id}/model")
]
client.set_registered_model_alias(name, "champion", versions[0])
addresses = {
    "run": f"runs:/{run.info.run_id}/model",
    "logged": f"models:/{logged.model_id}",
    "version": f"models:/{name}/{versions[0]}",
    "alias": f"models:/{name}@champion",
    "latest": f"models:/{name}/latest",
}
same = {
    form: bool(np.allclose(mlflow.pyfunc.load_model(address).predict(x), expected))
    for form, address in addresses.items()
}
print(
    json.dumps(
        {
            "status": found.info.status,
            "params": len(found.data.params),
            "metrics": len(found.data.metrics),
            "outputs": [one.model_id for one in found.outputs.model_outputs],
            "logged": logged.model_id,
            "logged_status": str(logged.status),
            "source_run": logged.source_run_id == run.info.run_id,
            "artifacts": sorted(one.path for one in client.list_artifacts(run.info.run_id)),
            "same": same,
            "versions": [int(version) for version in versions],
        }
    )
)

"""A model is logged, registered and loaded by every form of address: ``register.py <name>``."""

import json
import sys

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

(name,) = sys.argv[1:]
x, y = make_classification(200, 4, random_state=7)
mlflow.set_experiment("registered")
with mlflow.start_run() as run:
    model = LogisticRegression().fit(x, y)
    logged = mlflow.sklearn.log_model(model, name="model", input_example=x[:2])
client = MlflowClient()
first = mlflow.register_model(logged.model_uri, name)
second = mlflow.register_model(f"runs:/{run.info.run_id}/model", name)
client.set_registered_model_alias(name, "champion", first.version)
addresses = {
    "run": f"runs:/{run.info.run_id}/model",
    "logged": logged.model_uri,
    "version": f"models:/{name}/{first.version}",
    "alias": f"models:/{name}@champion",
    "latest": f"models:/{name}/latest",
}
same = {}
for form, address in addresses.items():
    found = mlflow.sklearn.load_model(address)
    same[form] = bool(np.array_equal(found.predict(x), model.predict(x)))
print(json.dumps({"same": same, "versions": [first.version, second.version]}))

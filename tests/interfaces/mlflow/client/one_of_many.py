"""One of several clients at once: a run with values and artifacts: ``one_of_many.py <number>``."""

import json
import sys
import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient

(number,) = sys.argv[1:]
mlflow.set_experiment("many")
with mlflow.start_run(run_name=f"client {number}") as run:
    mlflow.log_param("number", number)
    for step in range(5):
        mlflow.log_metric("loss", 1.0 / (step + 1), step=step)
    for part in range(3):
        mlflow.log_text(f"{number} {part}" * 1000, f"texts/{part}.txt")
client = MlflowClient()
found = client.get_run(run.info.run_id)
with tempfile.TemporaryDirectory() as folder:
    back = client.download_artifacts(run.info.run_id, "texts", folder)
    texts = [(Path(back) / f"{part}.txt").read_text() for part in range(3)]
print(
    json.dumps(
        {
            "param": found.data.params["number"],
            "history": [one.value for one in client.get_metric_history(run.info.run_id, "loss")],
            "texts": texts == [f"{number} {part}" * 1000 for part in range(3)],
        }
    )
)

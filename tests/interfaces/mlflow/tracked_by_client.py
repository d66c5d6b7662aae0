"""Run by the interpreter of MLflow's client: tracks, searches, and prints what it found."""

import json
import math

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException


def code_of(work):
    """The error code that work ends with."""
    try:
        work()
    except MlflowException as error:
        return error.error_code
    return None


client = MlflowClient()
found = {}

# Experiments: made, found by name, tagged, renamed, deleted, restored.
experiment = client.create_experiment("flights/late über 2026", tags={"team": "delays"})
found["again"] = code_of(lambda: client.create_experiment("flights/late über 2026"))
client.set_experiment_tag(experiment, "stage", "trial")
client.set_experiment_tag(experiment, "gone", "x")
client.delete_experiment_tag(experiment, "gone")
client.rename_experiment(experiment, "flights/late")
got = client.get_experiment_by_name("flights/late")
found["experiment"] = [got.experiment_id == experiment, got.lifecycle_stage, got.tags]
found["nobody"] = client.get_experiment_by_name("nobody")
found["unknown"] = code_of(lambda: client.get_experiment("4711"))
client.delete_experiment(experiment)
found["deleted"] = client.get_experiment(experiment).lifecycle_stage
found["in_deleted"] = code_of(lambda: client.create_run(experiment))
client.restore_experiment(experiment)
names = [one.name for one in client.search_experiments(filter_string="tags.team = 'delays'")]
found["experiments"] = names

# Runs by the fluent calls, nested, in the default experiment too.
with mlflow.start_run() as lone:
    mlflow.log_metric("m", 1.0)
found["default"] = mlflow.get_experiment(lone.info.experiment_id).name
mlflow.set_experiment("flights/late")
with mlflow.start_run(run_name="outer", tags={"kind": "sweep"}) as outer:
    mlflow.log_params({"depth": 3, "rate": 0.1})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metric("odd", math.nan)
    mlflow.log_metric("odd", math.inf, step=1)
    mlflow.log_input(
        mlflow.data.from_dict({"x": [1, 2]}, name="small")
        if hasattr(mlflow.data, "from_dict")
        else mlflow.data.meta_dataset.MetaDataset(
            mlflow.data.http_dataset_source.HTTPDatasetSource("https://example.org/x"),
            name="small",
        ),
        context="training",
    )
    with mlflow.start_run(run_name="inner", nested=True) as inner:
        mlflow.log_metric("loss", 0.01)
run = client.get_run(outer.info.run_id)
found["run"] = [
    run.info.run_name, run.info.status, run.data.params, run.data.metrics["loss"],
    str(run.data.metrics["odd"]), run.data.tags["kind"], run.info.artifact_uri
    == f"mlflow-artifacts:/{experiment}/{run.info.run_id}/artifacts",
    [(one.dataset.name, [tag.value for tag in one.tags]) for one in run.inputs.dataset_inputs],
]  # fmt: skip
found["history"] = [
    (one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")
]
found["odd"] = [str(one.value) for one in client.get_metric_history(run.info.run_id, "odd")]
children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
found["children"] = [one.info.run_name for one in children]
ordered = client.search_runs([experiment], "metrics.loss < 1", order_by=["metrics.loss ASC"])
found["ordered"] = [one.info.run_name for one in ordered]

# After its end, a run of a client takes values, and may go on.
client.log_metric(run.info.run_id, "late", 7.0)
with mlflow.start_run(run_id=run.info.run_id):
    mlflow.log_metric("late", 8.0, step=1)
found["late"] = client.get_run(run.info.run_id).data.metrics["late"]
found["changed"] = code_of(lambda: client.log_param(run.info.run_id, "depth", 4))
client.log_param(run.info.run_id, "depth", 3)

# Batches, tags, the end.
client.log_batch(
    inner.info.run_id,
    metrics=[Metric("m", float(place), 1_700_000_000_000 + place, place) for place in range(1000)],
    params=[Param(f"p{place}", str(place)) for place in range(100)][:0],
    tags=[RunTag("long", "x" * 10_000)],
)
found["batch"] = len(client.get_metric_history(inner.info.run_id, "m"))
found["long"] = len(client.get_run(inner.info.run_id).data.tags["long"])
client.set_tag(inner.info.run_id, "mlflow.runName", "renamed")
client.set_tag(inner.info.run_id, "gone", "x")
client.delete_tag(inner.info.run_id, "gone")
found["no_tag"] = code_of(lambda: client.delete_tag(inner.info.run_id, "gone"))
client.delete_run(inner.info.run_id)
found["when_deleted"] = code_of(lambda: client.log_metric(inner.info.run_id, "m", 1))
gone = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
found["gone"] = [one.info.run_name for one in gone]
client.restore_run(inner.info.run_id)
found["restored"] = client.get_run(inner.info.run_id).info.lifecycle_stage

# Pages.
page = client.search_runs([experiment], max_results=1)
second = client.search_runs([experiment], max_results=1, page_token=page.token)
found["pages"] = [one.info.run_name for one in (*page, *second)]
found["foreign"] = code_of(
    lambda: client.search_runs([experiment], "metrics.m > 0", page_token=page.token)
)
found["wrong"] = code_of(lambda: client.search_runs([experiment], "metrics.loss << 3"))
found["no_run"] = code_of(lambda: client.get_run("run_nothing"))
table = mlflow.search_runs(search_all_experiments=True, output_format="list")
found["all"] = len(table)
print(json.dumps(found))

"""Experiments and the ends of runs, on SQLite and PostgreSQL."""

import pytest

from falaj.kernel.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from falaj.testing.calls import opened_call
from falaj.training.model import DatasetInput, MetricPoint, OutputModel, RunState


def test_a_name_is_its_own_in_its_workspace_and_free_in_others(runs, database):
    experiments = runs.experiments_kept
    with opened_call(database) as call:
        made = experiments.create(call, "late", tags={"team": "delays"})
        assert made.tags == {"team": "delays"}
        assert experiments.create(call, "late", workspace="risk").id != made.id
        with pytest.raises(AlreadyExists, match="'late'"):
            experiments.create(call, "late")
        other = experiments.create(call, "early")
        with pytest.raises(AlreadyExists):
            experiments.rename(call, other.id, "late")
        assert experiments.rename(call, other.id, "sooner").name == "sooner"
        assert runs.start(call, experiment="late").experiment_id == made.id
        assert runs.start(call, experiment=made.id).experiment == "late"
        with pytest.raises(NotFound):
            runs.start(call, experiment=made.id, workspace="risk")
        for name in ("", " ", "x" * 501, "a\0b", made.id):
            with pytest.raises(InvalidInput):
                experiments.create(call, name)


def test_a_deleted_experiment_takes_its_runs_along_and_gives_those_back(runs, database):
    experiments = runs.experiments_kept
    with opened_call(database) as call:
        made = experiments.create(call, "late")
        first, second = (runs.start(call, experiment="late").id for _ in range(2))
        runs.delete(call, first)
        runs.delete(call, first)
    with opened_call(database) as call:
        experiments.delete(call, made.id)
        experiments.delete(call, made.id)
        assert runs.get(call.connection, second).deleted_at is not None
        for change in (
            lambda: runs.start(call, experiment="late"),
            lambda: runs.log(call, second, params={"a": 1}),
            lambda: runs.tag(call, second, {"a": "b"}),
            lambda: runs.restore(call, second),
            lambda: runs.update(call, second, name="x"),
            lambda: experiments.rename(call, made.id, "x"),
            lambda: experiments.tag(call, made.id, {"a": "b"}),
        ):
            with pytest.raises(Conflict, match="deleted"):
                change()
        with pytest.raises(AlreadyExists, match="it is deleted"):
            experiments.create(call, "late")
        experiments.restore(call, made.id)
        experiments.restore(call, made.id)
        assert runs.get(call.connection, second).deleted_at is None
        assert runs.get(call.connection, first).deleted_at is not None
        runs.restore(call, first)
        assert runs.get(call.connection, first).deleted_at is None


def test_tags_of_experiments_are_set_replaced_and_taken_away(runs, database):
    experiments = runs.experiments_kept
    with opened_call(database) as call:
        made = experiments.create(call, "late").id
        experiments.tag(call, made, {"a": "1", "b": "2"})
        experiments.tag(call, made, {"a": "3"})
        experiments.untag(call, made, "b")
        assert experiments.get(call.connection, made).tags == {"a": "3"}
        with pytest.raises(NotFound, match="no tag"):
            experiments.untag(call, made, "b")
        with pytest.raises(InvalidInput, match="20001"):
            experiments.tag(call, made, {"a": "x" * 20_001})


def test_an_open_ended_run_takes_values_after_its_end_and_goes_on(runs, database):
    with opened_call(database) as call:
        run = runs.start(call, experiment="late", open_ended=True).id
        runs.finish(call, run)
        runs.log(call, run, metrics=[MetricPoint(key="m", value=1)])
        assert runs.update(call, run, state=RunState.RUNNING).ended_at is None
        assert runs.update(call, run, state=RunState.KILLED).ended_at is not None
        sealed = runs.start(call, experiment="late").id
        runs.finish(call, sealed)
        with pytest.raises(Conflict, match="ended as finished"):
            runs.update(call, sealed, state=RunState.RUNNING)
        assert runs.update(call, sealed, name="other").name == "other"


def test_the_tags_of_mlflow_for_name_and_parent_are_the_run_s_own(runs, database):
    with opened_call(database) as call:
        outer = runs.start(call, experiment="late").id
        inner = runs.start(
            call, experiment="late", tags={"mlflow.runName": "owl", "mlflow.parentRunId": outer}
        )
        assert (inner.name, inner.parent, inner.tags) == ("owl", outer, {})
        runs.tag(call, inner.id, {"mlflow.runName": "hawk", "a": "b"})
        found = runs.get(call.connection, inner.id)
        assert (found.name, found.tags) == ("hawk", {"a": "b"})
        runs.untag(call, inner.id, "mlflow.parentRunId")
        assert runs.get(call.connection, inner.id).parent is None
        with pytest.raises(InvalidInput, match="name"):
            runs.untag(call, inner.id, "mlflow.runName")
        with pytest.raises(NotFound, match="no tag"):
            runs.untag(call, inner.id, "c")


def test_what_went_in_and_came_out_is_kept_once(runs, database):
    dataset = DatasetInput(
        name="flights", digest="d1", source="x", columns="{}", tags={"mlflow.data.context": "train"}
    )
    with opened_call(database) as call:
        run = runs.start(call, experiment="late").id
        for _ in range(2):
            runs.add_inputs(
                call, run, datasets=[dataset], input_models=["m-1"],
                output_models=[OutputModel(id="m-2", step=3)],
            )  # fmt: skip
        found = runs.get(call.connection, run)
        assert found.datasets == (dataset,)
        assert found.datasets[0].context == "train"
        assert (found.input_models, found.output_models[0].step) == (("m-1",), 3)
        with pytest.raises(InvalidInput, match="logged model"):
            runs.add_inputs(call, run, input_models=["a\0b"])

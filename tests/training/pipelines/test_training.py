"""A model trained through a pipeline: steps that begin jobs and wait for them."""

import pytest

import falaj.interfaces.platform
from falaj.demo.definitions.training import flight_training
from falaj.kernel.settings import Settings
from falaj.testing.world import definitions, training_spec, write_flights
from falaj.wiring.setup import initialise


@pytest.mark.nightly
def test_the_pipeline_of_the_demo_trains_a_version_that_leads_back_to_its_steps(tmp_path):
    initialise(Settings.read(tmp_path), owner="amina")
    write_flights(tmp_path / "flights.csv")
    with falaj.open(tmp_path) as platform:
        documents = [one.document() for one in definitions()]
        platform.definitions.apply([*documents, flight_training.document()])
        platform.wait(platform.sources.load("flights"))
        platform.wait(platform.features.materialize("recent"))
        small = {"n_trees": 15, "num_leaves": 7, "num_threads": 1}
        given = {"spec": training_spec(), "request": {"model": "late", "params": small}}
        run = platform.pipelines.run("flight-training", parameters=given)
        platform.wait(run.job)
        found = platform.pipelines.read(run.id, "trained")
        version = platform.models.get("late", found["version"])
        assert (version.run, version.training_set) == (found["run"], found["training_set"])
        upstream = platform.assets.lineage("model_version", f"late/{version.version}").refs()
        assert f"pipeline_step:{run.id}/trained" in {str(ref) for ref in upstream}
        (one, two) = platform.pipelines.get(run.id).steps
        assert len(one.jobs) == len(two.jobs) == 1

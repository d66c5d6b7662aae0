"""The bytes that a path named go with the last path, whoever wrote it and at what moment."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from sqlalchemy import select

from falaj.lake.streams import Kept
from falaj.testing.calls import opened_call
from falaj.training.artifacts import RUNS, Artifacts
from falaj.training.artifacttables import dropped_rows, stream_rows
from falaj.training.loggedmodels import LOGGED_MODELS, LoggedModels
from falaj.training.model import Artifact


@pytest.fixture
def artifacts():
    return Artifacts(None, None, (RUNS, LOGGED_MODELS))  # only paths and digests are at stake


@pytest.fixture
def run(runs, database):
    with opened_call(database) as call:
        return runs.start(call, experiment="late").id


def kept(name):
    return Kept(f"stream_{name}", f"sha256:{name}", 1)


def held(database):
    """The digests whose bytes are held, and the streams that are to be deleted."""
    with database.reading() as connection:
        return (
            sorted(connection.execute(select(stream_rows.c.digest)).scalars()),
            sorted(connection.execute(select(dropped_rows.c.stream)).scalars()),
        )


def at_once(database, first, second):
    """Do the second while the transaction of the first is under way."""

    def other():
        with opened_call(database) as call:
            second(call)

    with ThreadPoolExecutor(1) as pool:
        with opened_call(database) as call:
            first(call)
            begun = pool.submit(other)
            wait([begun], 0.5)  # it waits, or ends here
        begun.result()


def test_of_two_who_replace_a_file_at_once_neither_leaves_bytes_behind(artifacts, run, database):
    def keep(name):
        return lambda call: artifacts.keep(call, RUNS, run, "model", kept(name))

    with opened_call(database) as call:
        keep("0")(call)
    at_once(database, keep("1"), keep("2"))
    assert held(database) == (["sha256:2"], ["stream_0", "stream_1"])


def test_a_file_that_two_upload_first_at_once_is_that_of_the_later_one(artifacts, run, database):
    def keep(name):
        return lambda call: artifacts.keep(call, RUNS, run, "model", kept(name))

    at_once(database, keep("1"), keep("2"))
    assert held(database) == (["sha256:2"], ["stream_1"])


def test_a_file_that_is_removed_while_it_is_replaced_leaves_no_bytes(artifacts, run, database):
    with opened_call(database) as call:
        artifacts.keep(call, RUNS, run, "model", kept("0"))
    at_once(
        database,
        lambda call: artifacts.keep(call, RUNS, run, "model", kept("1")),
        lambda call: artifacts.remove(call, RUNS, run, "model"),
    )
    assert held(database) == ([], ["stream_0", "stream_1"])


def test_what_a_trainer_logs_in_the_place_of_a_file_lets_its_bytes_go(
    artifacts, runs, catalog, run, database
):
    with opened_call(database) as call:
        models = LoggedModels(catalog, runs.experiments_kept)
        model = models.create(call, experiment="late").id
        artifacts.keep(call, RUNS, run, "model", kept("0"))
        artifacts.keep(call, RUNS, run, "other", kept("1"))
        artifacts.keep(call, LOGGED_MODELS, model, "model", kept("1"))
        logged = [Artifact(path=path, digest="sha256:new", size=1) for path in ("model", "other")]
        runs.log(call, run, artifacts=logged)
    assert held(database) == (["sha256:1"], ["stream_0"])

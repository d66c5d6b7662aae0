"""Parameters that two calls log at once: the same value is good, another one is a conflict."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from falaj.kernel.errors import Conflict
from falaj.testing.calls import opened_call
from falaj.training.loggedmodels import LoggedModels


@pytest.fixture(params=["run", "logged model"])
def owner(request, runs, catalog, database):
    """Logs parameters of a run or a logged model, and reads them."""
    models = LoggedModels(catalog, runs.experiments_kept)
    with opened_call(database) as call:
        run = runs.start(call, experiment="late").id
        model = models.create(call, experiment="late").id

    def log(call, params):
        if request.param == "run":
            runs.log(call, run, params=params)
        else:
            models.add_params(call, model, params)

    def read():
        with database.reading() as connection:
            if request.param == "run":
                return runs.get(connection, run).params
            return models.get(connection, model).params

    return log, read


def at_once(database, log, first, second):
    """What the second call raised, which began while the first was under way."""

    def other():
        with opened_call(database) as call:
            log(call, second)

    with ThreadPoolExecutor(1) as pool:
        with opened_call(database) as call:
            log(call, first)
            begun = pool.submit(other)
            wait([begun], 0.5)  # it waits, or ends here
        return begun.exception()


def test_the_same_value_is_good_and_nothing_else_of_the_call_is_lost(owner, database):
    log, read = owner
    assert at_once(database, log, {"b": "2", "a": "1"}, {"a": "1", "b": "2", "c": "3"}) is None
    assert read() == {"a": "1", "b": "2", "c": "3"}


def test_another_value_is_a_conflict_that_names_it(owner, database):
    log, read = owner
    error = at_once(database, log, {"a": "1"}, {"a": "2", "c": "3"})
    assert isinstance(error, Conflict)
    assert "'a'" in str(error)
    assert read() == {"a": "1"}

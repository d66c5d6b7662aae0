"""Between principals: what a step leaves behind reaches nobody else, and rights are asked anew."""

import pyarrow as pa
import pytest

from falaj.catalog.model import Classification
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.door import LocalDoor
from falaj.kernel.errors import Forbidden, NotFound
from falaj.lake.service import record_table
from falaj.lake.sight import SeenInPart
from falaj.training.pipelines.graph import record_run
from falaj.trust.model import AccountState, Role

HEAD = "from falaj.declare import FromTable, Pipeline, ToTable, step\n"
HONEST = """
def honest(n):
    return {"n": n}
"""
POISON = """
def first():
    import __main__
    kept = __main__._outputs
    __main__._outputs = lambda value, wanted, folder: kept({"n": "poisoned"}, wanted, folder)
    return 1
"""


def account(house, name, role):
    """An active account."""
    made = house.made
    with made.calls.opened("test.account", "user:amina") as call:
        made.authentication.accounts.create(
            call.connection, name=name, kind=PrincipalKind.USER, roles=[role],
            created_by="user:amina", now=call.now, state=AccountState.ACTIVE,
        )  # fmt: skip
    return f"user:{name}"


@pytest.fixture(scope="module")
def omar(house):
    """A second engineer."""
    return account(house, "omar", Role.ML_ENGINEER)


@pytest.fixture(scope="module")
def vera(house):
    """Who may look, and write nothing."""
    return account(house, "vera", Role.VIEWER)


def run_as(house, principal, name, **parameters):
    """A run of somebody, executed."""
    with house.made.calls.opened("test.begin", principal) as call:
        run = house.made.pipelines.runs.begin(call, name, parameters)
        pipeline = house.made.pipelines.runs.pipeline(call.connection, name, run.version)
        record_run(call, house.made.catalog, run, pipeline)
    house.work()
    return house.platform.pipelines.get(run.id)


def asked(house, principal, action, role="ml_engineer", **arguments):
    """What an action answers somebody."""
    own = Principal(principal, PrincipalKind.USER, (role,))
    backend = house.made.backend
    return LocalDoor(backend, Caller(own)).call(backend.services.actions[action], arguments)


def table(house, name, **facts):
    """A table of two columns."""
    if not house.made.lake.exists(name):
        house.made.lake.append(name, pa.table({"id": ["a", "b"], "pay": [1, 2]}))
    with house.made.calls.opened("test.table", "user:amina") as call:
        record_table(call, house.made.catalog, name, **facts)


def given(house, run, step):
    return house.platform.pipelines.read(run.id, step)


def test_a_value_that_somebody_elses_step_tampered_with_is_no_hit(house, omar):
    victim = house.declare(HEAD + HONEST + "own = Pipeline.of('own', honest, parameters={'n': 3})")
    thief = house.declare(
        HEAD + POISON + HONEST + "x = Pipeline.of('x', first, honest, parameters={'n': 3})"
    )
    poisoned = run_as(house, omar, thief)
    assert given(house, poisoned, "honest") == {"n": "poisoned"}, "the attack itself works"
    run = house.run(victim)
    assert given(house, run, "honest") == {"n": 3}
    assert [one.from_run for one in run.steps] == [None]


def test_a_value_of_a_version_that_somebody_else_applied_is_no_hit_of_the_owners(house):
    clean = HEAD + HONEST + "x = Pipeline.of('twice', honest, parameters={'n': 4})"
    bad = HEAD + POISON + HONEST + "x = Pipeline.of('twice', first, honest, parameters={'n': 4})"
    house.declare(bad)
    with house.made.database.reading() as connection:
        changed = house.made.pipelines.runs.pipeline(connection, "twice").document()
    house.declare(clean)
    with house.made.calls.opened("test.apply", "user:mallory") as call:
        house.made.definitions.apply(call, [changed])
    assert given(house, house.run("twice"), "honest") == {"n": "poisoned"}
    house.declare(clean)
    assert given(house, house.run("twice"), "honest") == {"n": 4}


READING = """
def taken(rows):
    return rows

def pay(taken):
    return sum(taken["pay"].to_pylist())

def beside():
    return "nothing of it"

NAME = Pipeline.of("NAME", step(taken, takes={"rows": FromTable(table="TABLE")}), pay, beside)
"""


def reading(house, name, of):
    return house.declare(HEAD + READING.replace("NAME", name).replace("TABLE", of))


def test_a_hit_is_taken_by_those_only_who_may_read_the_inputs_now(house, omar):
    table(house, "salaries")
    name = reading(house, "hit", "salaries")
    assert run_as(house, omar, name).state == "done"
    table(house, "salaries", classification=Classification.PERSONAL)
    refused = run_as(house, omar, name)
    assert (refused.state, refused.error["code"]) == ("failed", "forbidden")


def test_what_a_step_gave_is_read_by_those_only_who_may_read_its_inputs(house, omar):
    table(house, "wages")
    run = house.run(reading(house, "shown", "wages"))
    assert asked(house, omar, "pipelines.read", run=run.id, step="pay") == 3
    table(house, "wages", classification=Classification.PERSONAL)
    for step in ("taken", "pay"):
        with pytest.raises(Forbidden):
            asked(house, omar, "pipelines.read", run=run.id, step=step)
    assert asked(house, omar, "pipelines.read", run=run.id, step="beside") == "nothing of it"


def test_what_a_step_gave_of_a_masked_column_is_not_shown(house, omar):
    table(house, "bonuses")
    run = house.run(reading(house, "masked", "bonuses"))
    table(house, "bonuses", columns={"pay": Classification.SENSITIVE})
    with pytest.raises(SeenInPart):
        asked(house, omar, "pipelines.read", run=run.id, step="pay")


def test_a_run_and_its_steps_are_as_secret_as_their_inputs_from_the_beginning(house):
    table(house, "levels", classification=Classification.INTERNAL)
    name = reading(house, "classified", "levels")
    run = house.platform.pipelines.run(name)
    catalog = house.made.catalog
    with house.made.database.reading() as connection:
        begun = catalog.get(connection, AssetRef("pipeline_run", run.id))
    house.work()
    with house.made.database.reading() as connection:
        step = catalog.get(connection, AssetRef("pipeline_step", f"{run.id}/pay"))
    assert (begun.classification, step.classification) == ("internal", "internal")


def test_a_run_writes_a_table_only_while_its_principal_may_write_it(house, omar, vera):
    write = house.made.pipelines.platform.written
    with house.made.calls.opened("test.write", omar) as call:
        write(call, "writer", "written_here", set())
    for name in ("written_here", "new_here"):
        with (
            pytest.raises(Forbidden, match="may not write"),
            house.made.calls.opened("test.write", vera) as call,
        ):
            write(call, "writer", name, set())
    with house.made.database.reading() as connection:
        assert not house.made.catalog.exists(connection, AssetRef("table", "new_here"))


def test_a_run_whose_principal_lost_the_right_to_write_changes_no_table(house, monkeypatch):
    name = house.declare(
        HEAD
        + """
def rows():
    import pyarrow as pa
    return pa.table({"n": [1]})

x = Pipeline.of("loses", step(rows, writes=ToTable(table="lost_rows")))
"""
    )
    may = type(house.made).may

    def asked_of_the_policy(made, call, action, resource):
        lost = action == "tables.upload" and resource.ref == AssetRef("table", "lost_rows")
        return not lost and may(made, call, action, resource)

    with monkeypatch.context() as patched:
        patched.setattr(type(house.made), "may", asked_of_the_policy)
        run = house.run(name)
    assert (run.state, run.error["code"]) == ("failed", "forbidden")
    assert not house.made.lake.exists("lost_rows")


def test_a_viewer_does_not_see_a_run_of_personal_rows(house, vera):
    table(house, "persons", classification=Classification.PERSONAL)
    name = reading(house, "unseen", "persons")
    with house.made.calls.opened("test.begin", "user:amina") as call:
        run = house.made.pipelines.runs.begin(call, name, {})
        pipeline = house.made.pipelines.runs.pipeline(call.connection, name)
        record_run(call, house.made.catalog, run, pipeline)
        house.made.pipelines.runs.cancel(call, run.id)
    with pytest.raises(NotFound):
        asked(house, vera, "pipelines.get", role="viewer", run=run.id)

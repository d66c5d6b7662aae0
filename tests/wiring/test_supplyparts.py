"""What the settings of the supply chain lead to: in the actions, the gates and the doctor."""

import json
from pathlib import Path

import pytest

from falaj.interfaces.doctor import examined
from falaj.kernel.door import LocalDoor
from falaj.kernel.settings import Settings
from falaj.testing.world import World
from falaj.training.distributions import installed
from falaj.wiring.assembly import Premises

POLICY_SAYS = "1 vulnerabilities above moderate: GHSA-1 in pkg:pypi/numpy@"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.close()


@pytest.fixture
def known(tmp_path):
    """A file in which one critical vulnerability of numpy is known."""
    numpy = next(one for one in installed() if one.name == "numpy")
    package = {"ecosystem": "PyPI", "name": "numpy"}
    record = {
        "id": "GHSA-1", "modified": "2026-10-01T00:00:00Z",
        "database_specific": {"severity": "CRITICAL"},
        "affected": [{"package": package, "versions": [numpy.version]}],
    }  # fmt: skip
    (tmp_path / "osv.jsonl").write_text(json.dumps(record))
    return tmp_path / "osv.jsonl"


@pytest.fixture
def opened(world, known):
    """The world's platform with a setting that names the file."""
    settings = world.premises.settings
    chosen = settings.supply_chain.model_copy(update={"vulnerabilities": known})
    made = Premises(settings.model_copy(update={"supply_chain": chosen}), process="a test")
    yield made
    made.close()


def asked(world, made, action, **arguments):
    door = LocalDoor(made.backend, world.caller())
    return door.call(made.backend.services.actions[action], arguments)


def test_the_bill_of_a_version_tells_vulnerabilities_only_where_a_file_is_named(world, opened):
    told = asked(world, opened, "models.bom", name="late", version=1)["vulnerabilities"]
    assert [(one["id"], one["ratings"]) for one in told] == [("GHSA-1", [{"severity": "critical"}])]
    without = asked(world, world.premises, "models.bom", name="late", version=1)
    assert "vulnerabilities" not in without


def test_the_gates_of_a_version_fail_by_what_the_file_knows(world, opened):
    from falaj.kernel.jobs import Worker

    name = world.lone_model()
    with world.call() as call:
        policy = world.premises.registry.policy(call.connection, "late")
        world.premises.definitions.apply(call, [{**policy.document(), "name": name}])
    asked(world, opened, "models.gates", name=name, version=1)
    worker = Worker(opened.jobs, opened.handlers, name="a test")
    while worker.run_one():
        pass
    report = asked(world, opened, "models.gate_report", name=name, version=1)
    (found,) = [one for one in report.results if one.gate == "supply_chain"]
    assert not report.passed
    assert found.message.startswith(POLICY_SAYS)


def told_by_the_doctor(settings):
    return next(one for one in examined(settings) if one.component == "supply chain")


def test_the_doctor_tells_what_is_known_and_whether_pickles_are_taken(tmp_path, known):
    plain = told_by_the_doctor(Settings.read(tmp_path))
    assert plain.told == "no file of vulnerabilities is named; pickles refused"
    (tmp_path / "falaj.toml").write_text(
        f'[supply_chain]\npickles = true\nvulnerabilities = "{known}"\n'
    )
    found = told_by_the_doctor(Settings.read(tmp_path))
    assert found.well
    assert "1 advisories (the newest of 2026-10-01), 1 known" in found.told
    assert "pickles TAKEN" in found.told
    known.write_text("no json")
    assert not told_by_the_doctor(Settings.read(tmp_path)).well


def test_a_file_that_is_not_there_is_named_by_the_action(world, opened):
    from falaj.kernel.errors import InvalidInput

    Path(opened.settings.supply_chain.vulnerabilities).unlink()
    with pytest.raises(InvalidInput, match=r"osv\.jsonl"):
        asked(world, opened, "models.bom", name="late", version=1)

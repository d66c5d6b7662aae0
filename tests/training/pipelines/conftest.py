"""A platform in a folder with a table, and pipelines that are declared in a file."""

import textwrap

import pyarrow as pa
import pytest

import falaj.interfaces.platform
from falaj.interfaces.declarations import declared
from falaj.kernel.jobs import Worker
from falaj.kernel.settings import Settings
from falaj.lake.service import record_table
from falaj.wiring.assembly import assemble
from falaj.wiring.setup import initialise


class House:
    """A platform of this test module, whose pipelines stand in files."""

    def __init__(self, folder):
        self.folder = folder
        initialise(Settings.read(folder), owner="amina")
        self.made = assemble(Settings.read(folder))
        self.platform = falaj.interfaces.platform.near(self.made)
        self.n = 0
        rows = pa.table({"flight": ["a", "b", "c"], "delay": [5.0, 20.0, -1.0]})
        self.made.lake.append("flights", rows)
        with self.made.calls.opened("test.table", "user:amina") as call:
            record_table(call, self.made.catalog, "flights")

    def declare(self, text, name=None):
        """Apply the pipelines of a text; returns the last one's name."""
        self.n += 1
        folder = self.folder / f"definitions{self.n}"
        folder.mkdir()
        (folder / "pipelines.py").write_text(textwrap.dedent(text), encoding="utf-8")
        found = declared(folder)
        self.platform.definitions.apply([one.document() for one in found])
        return found[-1].name

    def work(self):
        """Execute what waits, here."""
        worker = Worker(self.made.jobs, self.made.handlers, name="test")
        while worker.run_one():
            pass

    def run(self, name, **parameters):
        """Begin a run and execute it; the run as it ended."""
        run = self.platform.pipelines.run(name, parameters=parameters)
        self.work()
        return self.platform.pipelines.get(run.id)

    def close(self):
        self.made.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    made = House(tmp_path_factory.mktemp("house"))
    yield made
    made.close()

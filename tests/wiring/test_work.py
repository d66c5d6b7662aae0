"""The worker's chores go on, whatever one of them meets."""

import pytest

from falaj.kernel.errors import Unavailable
from falaj.kernel.settings import Settings
from falaj.wiring.assembly import assemble
from falaj.wiring.setup import initialise
from falaj.wiring.work import Chores


@pytest.mark.parametrize("error", [Unavailable("The lake is away."), ValueError("unforeseen")])
def test_a_chore_that_fails_does_not_keep_the_others_from_being_done(tmp_path, error):
    initialise(Settings.read(tmp_path), owner="owner")
    premises = assemble(Settings.read(tmp_path), process="test")
    done = []

    def fails():
        raise error

    try:
        chores = Chores(premises)
        chores._chores = {"first": fails, "second": lambda: done.append(True)}
        chores.run_once()
        chores.run_once()
    finally:
        premises.close()
    assert done == [True, True]

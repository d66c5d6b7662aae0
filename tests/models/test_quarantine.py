"""Quarantine: what may not be served or promoted until somebody has looked at it."""

import importlib.util
from pathlib import Path

import pytest

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.models.model import Stage
from falaj.models.quarantine import (
    Quarantined,
    check_not_quarantined,
    listed,
    quarantine,
    release_from_quarantine,
)

_PATH = Path(__file__).with_name("registered.py")
_SPEC = importlib.util.spec_from_file_location("models_registered", _PATH)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)


@pytest.fixture
def kept(database):
    made = _MODULE.Registered(database)
    made.made("late", 2)
    return made


def test_a_version_is_in_quarantine_from_its_first_reason_until_it_is_released(kept):
    with kept.call("user:omar") as call:
        first = quarantine(call, "late", 2, "conversion fell by a tenth")
    with kept.call() as call:
        assert quarantine(call, "late", 2, "another reason") == first
        assert (first.by, first.reason) == ("user:omar", "conversion fell by a tenth")
        assert listed(call.connection) == [first]
        check_not_quarantined(call.connection, "late", 1)
        with pytest.raises(Quarantined, match="fell by a tenth"):
            check_not_quarantined(call.connection, "late", 2)
        release_from_quarantine(call, "late", 2, "the labels were wrong")
        check_not_quarantined(call.connection, "late", 2)
        assert listed(call.connection) == []


def test_what_is_not_there_or_without_a_reason_is_refused(kept):
    with kept.call() as call:
        with pytest.raises(NotFound, match="version 3"):
            quarantine(call, "late", 3, "why")
        with pytest.raises(NotFound, match="not in quarantine"):
            release_from_quarantine(call, "late", 1, "why")
        for act in (quarantine, release_from_quarantine):
            with pytest.raises(InvalidInput, match="reason"):
                act(call, "late", 1, "  ")


def test_a_version_in_quarantine_is_not_promoted(kept):
    with kept.call() as call:
        quarantine(call, "late", 1, "it harmed")
        for stage in (Stage.STAGING, Stage.PRODUCTION):
            with pytest.raises(Quarantined, match="it harmed"):
                kept.promotions.ask(call, "late", 1, stage, "anyway")

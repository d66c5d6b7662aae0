"""What every adapter of a kernel port must do, as test classes to inherit.

A test module makes a subclass named ``Test…`` and gives it the fixtures that the class
names; the database comes from ``falaj.testing.fixtures``.
"""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from falaj.kernel.call import AssetRef
from falaj.kernel.database import Database
from falaj.kernel.ports import AuditEntry, AuditLog, Outcome, Resources

Keep = Callable[[Database, AssetRef, dict[str, str]], None]
Kept = Callable[[Database], list[str]]


class ResourcesConformance:
    """Fixtures: ``resources`` (the adapter) and ``keep`` (makes a thing with attributes)."""

    def test_a_missing_thing_is_said_to_be_missing(
        self, resources: Resources, database: Database
    ) -> None:
        """It is an answer, not an error: the policy decides what the caller learns."""
        with database.reading() as connection:
            found = resources.load(connection, AssetRef("table", "nowhere"))
        assert not found.exists
        assert dict(found.attributes) == {}

    def test_a_known_thing_has_its_attributes(
        self, resources: Resources, keep: Keep, database: Database
    ) -> None:
        """Each of those that the policy asks about."""
        ref = AssetRef("model_version", "delay/3")
        given = {
            "owner": "user:omar",
            "classification": "personal",
            "region": "ae",
            "stage": "staging",
        }
        keep(database, ref, dict(given))
        with database.reading() as connection:
            found = resources.load(connection, ref)
        assert found.exists
        assert found.ref == ref
        assert dict(found.attributes) == given

    def test_what_nobody_has_said_is_absent(
        self, resources: Resources, keep: Keep, database: Database
    ) -> None:
        """Unknown is not an empty text."""
        ref = AssetRef("table", "flights")
        keep(database, ref, {"owner": "user:omar"})
        with database.reading() as connection:
            found = resources.load(connection, ref)
        assert dict(found.attributes) == {"owner": "user:omar"}


class AuditLogConformance:
    """Fixtures: ``audit`` (the adapter) and ``kept`` (the call ids it has, in order)."""

    def test_an_entry_is_kept_with_its_transaction(
        self, audit: AuditLog, kept: Kept, database: Database
    ) -> None:
        """And stays in the order in which it was written."""
        for n in range(3):
            with database.transaction() as connection:
                audit.append(connection, an_entry(f"call_{n}"))
        assert kept(database) == ["call_0", "call_1", "call_2"]

    def test_an_entry_goes_with_a_transaction_that_is_rolled_back(
        self, audit: AuditLog, kept: Kept, database: Database
    ) -> None:
        """The record never tells of work that did not happen."""
        with pytest.raises(RuntimeError), database.transaction() as connection:
            audit.append(connection, an_entry("call_lost"))
            raise RuntimeError
        with database.transaction() as connection:
            audit.append(connection, an_entry("call_kept"))
        assert kept(database) == ["call_kept"]


def an_entry(call_id: str) -> AuditEntry:
    """An audit entry of a made-up call."""
    return AuditEntry(
        call_id=call_id,
        parent=None,
        at=datetime(2026, 1, 1, tzinfo=UTC),
        principal="user:amina",
        via="local",
        address=None,
        action="assets.get",
        resource="table:flights",
        outcome=Outcome.DONE,
        reasons=("rule",),
        arguments={"kind": "table", "key": "flights"},
        details={},
    )

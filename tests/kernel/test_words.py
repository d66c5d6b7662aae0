"""Ids, clocks, errors, problem documents, asset names."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.kernel.call import AssetRef
from falaj.kernel.clock import SetClock, SystemClock, from_microseconds, microseconds
from falaj.kernel.errors import ErrorKind, FalajError, InvalidInput, error_classes
from falaj.kernel.ids import is_id, new_id
from falaj.kernel.problems import RemoteError, problem, rebuilt, status_of


def test_ids_carry_their_type_and_do_not_repeat() -> None:
    ids = [new_id("run") for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(is_id(text, "run") for text in ids)
    assert not is_id(ids[0], "job")
    assert not is_id(ids[0] + "0", "run")


def test_ids_of_later_milliseconds_sort_later(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id("run")
    at = int(first[4:16], 16)
    monkeypatch.setattr("time.time_ns", lambda: (at + 1) * 1_000_000)
    assert new_id("run") > first


def test_an_unknown_id_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="PREFIXES"):
        new_id("cat")


@given(st.datetimes(timezones=st.just(UTC)))
def test_microseconds_are_exact(at: datetime) -> None:
    assert from_microseconds(microseconds(at)) == at


def test_clocks_tell_utc() -> None:
    gulf = timezone(timedelta(hours=4))
    clock = SetClock(datetime(2026, 1, 1, 4, tzinfo=gulf))
    assert clock.now() == datetime(2026, 1, 1, tzinfo=UTC)
    clock.move(timedelta(hours=1))
    assert clock.now().hour == 1
    assert SystemClock().now().tzinfo is UTC
    with pytest.raises(ValueError, match="zone"):
        SetClock(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("code", sorted(error_classes()))
def test_every_error_survives_the_wire_and_the_pickle(code: str) -> None:
    error = error_classes()[code]("What is wrong.", hint="What to do.", column="age")
    for again in (rebuilt(problem(error)), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error)
        assert (again.message, again.hint) == (error.message, error.hint)
        assert again.details == {"column": "age"}


def test_error_codes_are_unique() -> None:
    classes = list(error_classes().values())
    assert len({error.code for error in classes}) == len(classes)


def test_an_unknown_problem_becomes_a_remote_error() -> None:
    again = rebuilt({"code": "from-the-future", "detail": "Odd."})
    assert isinstance(again, RemoteError)
    assert again.message == "Odd."


def test_every_kind_of_error_has_a_status() -> None:
    assert {status_of(kind) for kind in ErrorKind} >= {401, 403, 404, 409, 422, 429, 500, 503}


def test_an_error_reads_as_what_is_wrong_and_what_to_do() -> None:
    assert str(InvalidInput("It is wrong.", hint="Mend it.")) == "It is wrong. Mend it."
    assert str(FalajError("It is wrong.")) == "It is wrong."


def test_an_asset_name_is_read_as_it_is_written() -> None:
    assert AssetRef.parse("model_version:flight-delay/3") == AssetRef(
        "model_version", "flight-delay/3"
    )
    for wrong in ("nothing", ":key", "kind:"):
        with pytest.raises(ValueError, match="kind:key"):
            AssetRef.parse(wrong)

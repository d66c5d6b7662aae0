from __future__ import annotations

import pytest

from falaj.serving.heads import Head, KnownHeads

LINES = [b"POST /x HTTP/1.1", b"host: a", b"content-length: 3"]
RAW = b"\r\n".join(LINES)
LONGEST = 100


def head(**values: object) -> Head:
    made = Head(b"POST", b"/x", b"", {b"host": b"a", b"content-length": b"3"})
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_a_head_is_found_by_its_bytes_for_a_second() -> None:
    known, kept = KnownHeads(), head()
    known.keep(RAW, kept, 10.0, LONGEST)
    assert known.found(RAW, 10.9) is kept
    assert kept.length == 3
    assert known.found(RAW, 11.1) is None
    assert known.found(RAW + b"\r\nx: y", 10.1) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n".join([LINES[0], b" folded: line", *LINES[1:]]),
        b"\r\n".join([LINES[0], b"\tfolded: line", *LINES[1:]]),
        b"\n".join(LINES),
        b"\r\n".join([LINES[0], b"a: b\nc: d", *LINES[1:]]),
        b"\r\n".join([LINES[0], b"a: b\rc: d", *LINES[1:]]),
        b"\r\n" + RAW,
        RAW.replace(b"1.1", b"1.0"),
        RAW + b"\r\nx: " + b"y" * 5_000,
    ],
)
def test_bytes_that_can_be_read_in_two_ways_are_not_kept(raw: bytes) -> None:
    known = KnownHeads()
    known.keep(raw, head(), 1.0, LONGEST)
    assert known.found(raw, 1.0) is None


@pytest.mark.parametrize(
    "values",
    [
        {"method": b"GET"},
        {"keep_alive": False},
        {"headers": {b"host": b"a"}},
        {"headers": {b"content-length": b"+3"}},
        {"headers": {b"content-length": b"3", b"transfer-encoding": b"chunked"}},
        {"headers": {b"content-length": b"3", b"expect": b"100-continue"}},
        {"headers": {b"content-length": b"3", b"upgrade": b"h2c"}},
        {"headers": {b"content-length": b"3", b"connection": b"close"}},
    ],
)
def test_only_a_plain_post_that_says_its_length_is_kept(values: dict[str, object]) -> None:
    known = KnownHeads()
    known.keep(RAW, head(**values), 1.0, LONGEST)
    assert known.found(RAW, 1.0) is None


def test_many_heads_take_no_more_room_than_was_set_aside() -> None:
    known = KnownHeads()
    for number in range(10_000):
        known.keep(RAW + b"\r\nx: %d" % number, head(), 1.0, LONGEST)
    assert len(known._kept) <= 2_048
    assert len(known._alike) <= 2_048


def test_a_head_that_differs_in_its_length_alone_is_found_too() -> None:
    known, kept = KnownHeads(), head(memo="admitted")
    known.keep(RAW, kept, 10.0, LONGEST)
    found = known.found(RAW.replace(b": 3", b": 57"), 10.5)
    assert found is not None
    assert (found.length, found.headers[b"content-length"], found.memo) == (57, b"57", "admitted")
    assert (found.method, found.path, found.headers[b"host"]) == (b"POST", b"/x", b"a")
    assert found is known.found(RAW.replace(b": 3", b": 57"), 10.6)
    assert known.found(RAW.replace(b": 3", b": 57"), 11.1) is None, "it was not forgotten"


def test_many_lengths_take_no_more_room_than_was_set_aside() -> None:
    known = KnownHeads()
    known.keep(RAW, head(), 1.0, 1_000_000)
    for number in range(1, 10_000):
        assert known.found(RAW.replace(b": 3", b": %d" % number), 1.0) is not None
    assert len(known._kept) <= 2_048


@pytest.mark.parametrize(
    "length",
    [b"101", b"03", b"+4", b"4 ", b"0x4", b"4, 5", b"", b"-4", b"4\r\ncontent-length: 5"],
)
def test_a_length_that_is_too_long_or_no_plain_number_is_read_anew(length: bytes) -> None:
    known = KnownHeads()
    known.keep(RAW, head(), 1.0, LONGEST)
    assert known.found(RAW.replace(b": 3", b": " + length), 1.0) is None


def test_another_value_of_another_header_is_another_head() -> None:
    known = KnownHeads()
    known.keep(RAW, head(), 1.0, LONGEST)
    assert known.found(RAW.replace(b"host: a", b"host: b").replace(b": 3", b": 4"), 1.0) is None

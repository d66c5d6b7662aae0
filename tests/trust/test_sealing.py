"""Sealing: whatever is done to sealed bytes, they open to what they were or not at all."""

import io
import itertools
import tracemalloc
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.ports import WRAPPING, UnknownKey
from falaj.trust.sealing import (
    FRAME_BYTES,
    TAG_BYTES,
    open_bytes,
    open_stream,
    rewrapped,
    seal_bytes,
    seal_stream,
    sealed_under,
)

CLOCK = SetClock(datetime(2026, 11, 23, tzinfo=UTC))
FRAME = 64


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return FileKeyring.create(folder / "k.json", MachineSeal.create(folder / "s"), clock=CLOCK)


def sealed(keys, data, context="c", frame=FRAME):
    target = io.BytesIO()
    assert seal_stream(io.BytesIO(data), target, keys, context=context, frame_bytes=frame) == len(
        data
    )
    return target.getvalue()


def header_size(blob, n_bytes, frame=FRAME):
    frames = max(1, -(-n_bytes // frame))
    return len(blob) - n_bytes - frames * TAG_BYTES


def cut(blob, n_bytes):
    """The header and the frames (with tags) of a blob."""
    start = header_size(blob, n_bytes)
    step = FRAME + TAG_BYTES
    body = blob[start:]
    return blob[:start], [body[i : i + step] for i in range(0, len(body), step)]


class Trickle:
    """A source that gives a few bytes at a time and has no readinto, as a socket may."""

    def __init__(self, data):
        self._source = io.BytesIO(data)

    def read(self, size):
        return self._source.read(min(size, 7))


@given(st.binary(max_size=5 * FRAME), st.text(max_size=20))
def test_what_is_sealed_opens_to_the_same(keys, data, context):
    blob = sealed(keys, data, context)
    assert open_bytes(blob, keys, context=context) == data
    assert open_bytes(seal_bytes(data, keys, context=context), keys, context=context) == data


@pytest.mark.parametrize(
    "size", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES]
)
def test_both_ways_of_sealing_make_the_same_format_at_every_edge(keys, size):
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    target, back = io.BytesIO(), io.BytesIO()
    seal_stream(io.BytesIO(data), target, keys, context="c")
    assert open_bytes(target.getvalue(), keys, context="c") == data
    assert (
        open_stream(io.BytesIO(seal_bytes(data, keys, context="c")), back, keys, context="c")
        == size
    )
    assert back.getvalue() == data


@given(st.binary(max_size=3 * FRAME))
def test_a_source_that_gives_little_at_a_time_is_sealed_and_opened_whole(keys, data):
    target, back = io.BytesIO(), io.BytesIO()
    seal_stream(Trickle(data), target, keys, context="c", frame_bytes=FRAME)
    open_stream(Trickle(target.getvalue()), back, keys, context="c")
    assert back.getvalue() == data


def test_nothing_of_the_plaintext_shows_and_no_two_seals_are_alike(keys):
    data = b"a very secret sentence indeed" * 10
    one, two = seal_bytes(data, keys, context="c"), seal_bytes(data, keys, context="c")
    assert b"secret" not in one
    assert one != two


@pytest.mark.parametrize("size", [0, 10, FRAME, 2 * FRAME + 5])
def test_every_flipped_bit_is_noticed(keys, size):
    blob = sealed(keys, bytes(size))
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(Corrupt):
            open_bytes(bytes(changed), keys, context="c")


@pytest.mark.parametrize("size", [0, 10, FRAME, 2 * FRAME, 2 * FRAME + 5])
def test_every_truncation_is_noticed(keys, size):
    blob = sealed(keys, bytes(size))
    for length in range(len(blob)):
        with pytest.raises(Corrupt):
            open_bytes(blob[:length], keys, context="c")
        with pytest.raises(Corrupt):
            open_stream(io.BytesIO(blob[:length]), io.BytesIO(), keys, context="c")


@given(st.binary(max_size=3 * FRAME), st.binary(min_size=1, max_size=2 * FRAME))
def test_appended_bytes_are_noticed(keys, data, extra):
    blob = sealed(keys, data)
    for attempt in (blob + extra, blob + blob, blob + bytes(len(extra))):
        with pytest.raises(Corrupt):
            open_bytes(attempt, keys, context="c")


def test_every_order_of_frames_but_the_right_one_is_noticed(keys):
    data = bytes(range(256))[: 3 * FRAME + 9]
    head, frames = cut(sealed(keys, data), len(data))
    for order in itertools.permutations(frames):
        if list(order) != frames:
            with pytest.raises(Corrupt):
                open_bytes(head + b"".join(order), keys, context="c")
    for kept in range(len(frames)):
        without = frames[:kept] + frames[kept + 1 :]
        twice = frames[: kept + 1] + frames[kept:]
        for attempt in (without, twice):
            with pytest.raises(Corrupt):
                open_bytes(head + b"".join(attempt), keys, context="c")


def test_swapped_headers_and_frames_of_another_blob_are_noticed(keys):
    data = bytes(2 * FRAME)
    (head_a, frames_a), (head_b, frames_b) = (
        cut(sealed(keys, data), len(data)),
        cut(sealed(keys, data), len(data)),
    )
    for attempt in (
        head_a + b"".join(frames_b),
        head_b + b"".join(frames_a),
        head_a + frames_a[0] + frames_b[1],
    ):
        with pytest.raises(Corrupt):
            open_bytes(attempt, keys, context="c")


def test_the_wrapped_key_of_another_blob_does_not_fit(keys):
    one, two = sealed(keys, b"one"), sealed(keys, b"two")
    wrapped_one, wrapped_two = (sealed_under(io.BytesIO(blob)).value for blob in (one, two))
    with pytest.raises(Corrupt):
        open_bytes(one.replace(wrapped_one, wrapped_two), keys, context="c")


@given(st.text(max_size=10), st.text(max_size=10))
def test_another_context_opens_nothing(keys, right, wrong):
    blob = sealed(keys, b"data", right)
    if right != wrong:
        with pytest.raises(Corrupt):
            open_bytes(blob, keys, context=wrong)


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_without_any_other_error(keys, rubbish):
    for attempt in (rubbish, b"FLJ1" + rubbish, b"FLJ1\x00\x10\x00\x00" + rubbish):
        with pytest.raises(Corrupt):
            open_bytes(attempt, keys, context="c")


def test_a_header_that_claims_huge_frames_costs_no_memory(keys):
    blob = bytearray(sealed(keys, b"x"))
    blob[4:8] = b"\xff\xff\xff\xff"
    with pytest.raises(Corrupt, match="frames of"):
        open_bytes(bytes(blob), keys, context="c")


def test_a_blob_of_another_keyring_is_named_as_such(keys, tmp_path):
    other = FileKeyring.create(tmp_path / "k.json", MachineSeal.create(tmp_path / "s"), clock=CLOCK)
    with pytest.raises(UnknownKey):
        open_bytes(seal_bytes(b"x", other, context="c"), keys, context="c")


def test_a_data_key_of_another_size_is_refused(keys):
    blob = sealed(keys, b"x")
    wrapped = sealed_under(io.BytesIO(blob))
    short = keys.wrap(bytes(16), context="sealed c")
    head = blob[:15] + blob[15 : blob.index(wrapped.value) - 2]
    attempt = head + len(short.value).to_bytes(2, "big") + short.value + blob[-17:]
    with pytest.raises(Corrupt, match="another kind"):
        open_bytes(attempt, keys, context="c")


def test_rewrapping_changes_the_key_and_not_the_frames(keys):
    data = bytes(3 * FRAME)
    blob = sealed(keys, data)
    made = keys.rotate(WRAPPING)
    target = io.BytesIO()
    rewrapped(io.BytesIO(blob), target, keys, context="c")
    again = target.getvalue()
    assert sealed_under(io.BytesIO(again)).key_id == made.id
    assert cut(again, len(data))[1] == cut(blob, len(data))[1]
    assert open_bytes(again, keys, context="c") == data
    with pytest.raises(Corrupt):
        rewrapped(io.BytesIO(blob), io.BytesIO(), keys, context="d")


@pytest.mark.parametrize("size", [0, 63, 2**24 + 1])
def test_a_senseless_frame_size_is_refused(keys, size):
    with pytest.raises(InvalidInput):
        seal_stream(io.BytesIO(), io.BytesIO(), keys, context="c", frame_bytes=size)


def test_sealing_and_opening_need_the_same_memory_for_any_size(keys, tmp_path):
    clear, closed, back = (tmp_path / name for name in ("clear", "closed", "back"))
    with clear.open("wb") as file:
        file.truncate(48 * 2**20)
    tracemalloc.start()
    with clear.open("rb") as source, closed.open("wb") as target:
        seal_stream(source, target, keys, context="c")
    with closed.open("rb") as source, back.open("wb") as target:
        open_stream(source, target, keys, context="c")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert back.read_bytes() == clear.read_bytes()

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest

from falaj.serving.arrowpredictions import _column
from falaj.serving.errors import BadRequest
from falaj.serving.model import Durability, FieldType, Limits, RequestField
from falaj.testing.serving import Running, make_release, onnx_classifier

ARROW = "application/vnd.apache.arrow.stream"


def expected(rows: Any) -> np.ndarray:
    session = ort.InferenceSession(onnx_classifier(3, 0))
    return session.run(None, {"input": np.asarray(rows, dtype=np.float32)})[1][:, 1]


def stream_of(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def ask(running: Running, table: pa.Table | bytes, **options: Any) -> Any:
    body = table if isinstance(table, bytes) else stream_of(table)
    headers = {"content-type": ARROW, **options.pop("headers", {})}
    return running.predict(body, headers=headers, **options)


def read(answer: Any) -> pa.Table:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == ARROW
    return pa.ipc.open_stream(answer.content).read_all()


def numbers(n: int = 1, **columns: Any) -> pa.Table:
    given = {name: pa.array([1.0 + place] * n) for place, name in enumerate("abc")}
    return pa.table({**given, **columns})


@pytest.mark.parametrize("n", [1, 7, 600])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_a_stream_of_fields_is_answered_by_one_of_ids_and_outputs(
    running: Running, n: int, kind: type
) -> None:
    running.activate(make_release())
    rows = (np.random.default_rng(n).normal(size=(n, 3)) * 3).astype(kind)
    given = pa.table({name: rows[:, place] for place, name in enumerate("abc")})
    told = read(ask(running, given.replace_schema_metadata({"request_id": "mine"})))
    assert told.column_names == ["id", "score", "model"]
    assert told["score"].to_numpy() == pytest.approx(expected(rows), abs=1e-6)
    assert len(set(told["id"].to_pylist())) == n
    assert told.schema.metadata == {b"release": b"release_1", b"request_id": b"mine"}


def test_columns_are_told_apart_by_their_names_in_whatever_order_and_batches(
    running: Running,
) -> None:
    running.activate(make_release())
    given = numbers(5, a=pa.array([1.0, 2.0, 3.0, 4.0, 5.0], pa.float32()))
    turned = pa.concat_tables([given.slice(0, 2), given.slice(2)]).select(["c", "a", "b"])
    assert turned.column("a").num_chunks == 2
    told = read(ask(running, turned))["score"].to_numpy()
    assert told == pytest.approx(expected([[one, 2, 3] for one in range(1, 6)]), abs=1e-6)
    refused = ask(running, turned.rename_columns(["c", "a", "other"]))
    assert (refused.status_code, "other" in refused.json()["detail"]) == (400, True)


def test_a_stream_is_answered_in_json_for_who_asks_for_it(running: Running) -> None:
    running.activate(make_release())
    headers = {"accept": "application/json"}
    told = ask(running, numbers(), headers=headers, params={"explain": "features"}).json()
    (prediction,) = told["predictions"]
    assert prediction["score"] == pytest.approx(expected([[1, 2, 3]])[0], abs=1e-6)
    assert prediction["features"]["b"]["value"] == 2.0
    refused = ask(running, numbers(), params={"explain": "features"})
    assert (refused.status_code, "JSON" in refused.json()["detail"]) == (400, True)


FIELDS = (
    RequestField(name="a", type=FieldType.FLOAT, nullable=True),
    RequestField(name="b", type=FieldType.INT),
    RequestField(name="c", type=FieldType.BOOLEAN),
    RequestField(name="word", type=FieldType.STRING, required=False),
    RequestField(name="moment", type=FieldType.TIMESTAMP, required=False),
)


def test_columns_of_every_type_are_the_fields_of_that_type(running: Running) -> None:
    running.activate(make_release(fields=FIELDS, durability=Durability.REQUEST))
    at = datetime(2013, 10, 1, 12, tzinfo=UTC)
    table = pa.table(
        {
            "a": pa.array([None, float("nan"), 0.5], pa.float32()),
            "b": pa.array([1, 2, 3], pa.uint8()),
            "c": pa.array([True, False, True]),
            "word": pa.array(["فلج", None, "x"]).dictionary_encode(),
            "moment": pa.array([at, None, at], pa.timestamp("ns", "Asia/Dubai")),
        }
    ).replace_schema_metadata({"at": "2013-10-02T00:00:00Z"})
    told = read(ask(running, table))
    logged = {row["prediction_id"]: row for row in running.spools.rows("predictions_delays")}
    found = [json.loads(logged[one]["fields"]) for one in told["id"].to_pylist()]
    assert found == [
        {"a": None, "b": 1, "c": True, "word": "فلج", "moment": "2013-10-01T12:00:00Z"},
        {"a": None, "b": 2, "c": False, "word": None, "moment": None},
        {"a": 0.5, "b": 3, "c": True, "word": "x", "moment": "2013-10-01T12:00:00Z"},
    ]
    (row, *_) = logged.values()
    assert row["predicted_for"] == datetime(2013, 10, 2, tzinfo=UTC)


def bomb() -> bytes:
    zeros = pa.table({name: pa.array(np.zeros(500_000)) for name in "abc"})
    return stream_of(zeros, options=pa.ipc.IpcWriteOptions(compression="zstd"))


def lying() -> bytes:
    """A text that ends far outside of its buffer."""
    body = stream_of(numbers(c=pa.array(["x" * 77])))
    offsets, lie = struct.pack("<ii", 0, 77), struct.pack("<ii", 0, 2**30)
    place = body.rindex(offsets)
    return body[:place] + lie + body[place + len(lie) :]


HOSTILE = {
    "a bomb": (bomb, "compressed"),
    "a text that lies": (lying, "no Arrow"),
    "no stream": (lambda: b"ARROW1" * 20, "no Arrow"),
    "nothing": (lambda: b"", "no Arrow"),
    "cut": (lambda: stream_of(numbers(100))[:-1_000], "no Arrow"),
    "a pickle": (lambda: b"\x80\x04\x95\x10.", "no Arrow"),
    "no rows": (lambda: numbers().slice(0, 0), "no inputs"),
    "no columns": (lambda: pa.table({}), "no columns"),
    "an unknown column": (lambda: numbers(z=pa.array([1.0])), "no field"),
    "a column too few": (lambda: numbers().drop_columns(["c"]), "missing required field"),
    "a list": (lambda: numbers(c=pa.array([[1.0]])), "list<"),
    "a struct": (lambda: numbers(c=pa.array([{"x": 1.0}])), "struct<"),
    "a map": (
        lambda: numbers(c=pa.array([[("x", 1)]], pa.map_(pa.string(), pa.int8()))), "map<",
    ),
    "a text": (lambda: numbers(c=pa.array(["1"])), "string"),
    "a truth": (lambda: numbers(c=pa.array([True])), "bool"),
    "bytes": (lambda: numbers(c=pa.array([b"1"])), "binary"),
    "a decimal": (lambda: numbers(c=pa.array([1], pa.decimal128(5))), "decimal"),
    "words for numbers": (
        lambda: numbers(c=pa.array([1.0]).dictionary_encode()), "dictionary",
    ),
    "a null": (lambda: numbers(c=pa.array([None], pa.float64())), "null"),
    "only nulls": (lambda: numbers(c=pa.nulls(1)), "null"),
    "nan": (lambda: numbers(c=pa.array([float("nan")])), "NaN"),
    "nan beside a null": (
        lambda: numbers(2, c=pa.array([None, float("nan")], pa.float64())), "NaN",
    ),
    "infinity": (lambda: numbers(c=pa.array([float("-inf")])), "infinite"),
    "beyond the model's numbers": (lambda: numbers(c=pa.array([1e300])), "float"),
    "beyond 64 signed bits": (lambda: numbers(c=pa.array([2**64 - 1], pa.uint64())), None),
    "a long id": (
        lambda: numbers().replace_schema_metadata({"request_id": "x" * 201}), "200 characters",
    ),
    "an id that is no text": (
        lambda: numbers().replace_schema_metadata({"request_id": b"\xff"}), "no text",
    ),
    "an instant that is none": (
        lambda: numbers().replace_schema_metadata({"at": "soon"}), "no instant",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("made", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_stream_is_refused_and_the_worker_lives(
    hardened: Running, made: Any, says: str | None
) -> None:
    answer = ask(hardened, made())
    if says is None:
        assert answer.status_code == 200  # a whole number is a number, as in JSON
    else:
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["detail"]
    assert ask(hardened, numbers()).status_code == 200


def test_times_are_refused_where_they_say_no_zone_or_no_year(running: Running) -> None:
    running.activate(make_release(fields=FIELDS))
    good = {"a": pa.array([1.0]), "b": pa.array([1]), "c": pa.array([True])}
    for moment, says in (
        (pa.array([0], pa.timestamp("us")), "without a zone"),
        (pa.array([2**62], pa.timestamp("s", "UTC")), "no year"),
        (pa.array([2**62], pa.timestamp("us", "UTC")), "no year"),
        (pa.array(["soon"]), "Invalid"),
    ):
        answer = ask(running, pa.table({**good, "moment": moment}))
        assert (answer.status_code, says in answer.json()["detail"]) == (400, True), answer.text


def test_limits_hold_for_streams(running: Running) -> None:
    running.activate(make_release(limits=Limits(rows=2, body_bytes=4_000)))
    assert ask(running, numbers(2)).status_code == 200
    assert ask(running, numbers(3)).status_code == 413
    assert ask(running, numbers(1000)).status_code == 413
    nobody = ask(running, numbers(), headers={"authorization": "Bearer nobody"})
    assert nobody.status_code == 401
    by_get = running.client.get(
        "/v1/endpoints/delays/predict",
        headers={"authorization": "Bearer user:amina", "content-type": ARROW},
    )
    assert by_get.status_code == 405


def shared_text(size: int, n: int, *, views: bool) -> pa.Array:
    """One text of a size, which n rows name."""
    if not views:
        return pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), ["x" * size])
    view = struct.pack("<i4sii", size, b"xxxx", 0, 0) * n
    buffers = [None, pa.py_buffer(view), pa.py_buffer(b"x" * size)]
    return pa.Array.from_buffers(pa.string_view(), n, buffers)


@pytest.mark.parametrize("views", [False, True])
def test_a_text_that_many_rows_share_is_held_once(*, views: bool) -> None:
    field = RequestField(name="word", type=FieldType.STRING)
    column = pa.chunked_array([shared_text(4_096, 500, views=views)])
    told = _column(field, column)
    assert told == ["x" * 4_096] * 500
    assert len({id(one) for one in told}) == 1
    assert _column(field, column.slice(499)) == ["x" * 4_096]
    with pytest.raises(BadRequest, match="1000000 bytes"):
        _column(field, pa.chunked_array([shared_text(1_000_000, 500, views=views)]))

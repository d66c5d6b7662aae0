from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from falaj.serving.endpointopenapi import document
from falaj.serving.model import FieldType, Limits, RequestField
from falaj.testing.serving import Running, make_release

TOKEN = {"authorization": "Bearer user:amina"}
RELEASE = make_release(
    "release_2",
    fields=(
        RequestField(name="a", type=FieldType.FLOAT, nullable=True),
        RequestField(name="b", type=FieldType.INT),
        RequestField(name="c", type=FieldType.BOOLEAN, required=False),
        RequestField(name="word", type=FieldType.STRING, required=False),
        RequestField(name="moment", type=FieldType.TIMESTAMP),
    ),
    limits=Limits(rows=5),
)
SCHEMA = schemathesis.openapi.from_dict(document(RELEASE))
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
]  # fmt: skip
PREDICT = "/v1/endpoints/delays/predict"
JSON = "application/json"
quick = settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def serving(hardened: Running) -> Iterator[Running]:
    hardened.activate(RELEASE)
    yield hardened
    assert hardened.client.get("/readyz").status_code == 200


def call(case: Any, running: Running) -> Any:
    return case.call(base_url=running.url, headers=TOKEN)


@quick
@given(st.data())
def test_whatever_fits_the_document_is_predicted(serving: Running, data: Any) -> None:
    strategy = SCHEMA[PREDICT]["POST"].as_strategy(GenerationMode.POSITIVE, media_type=JSON)
    case = data.draw(strategy)
    # JSON Schema calls 1.0 a whole number; the decoder does not.
    assume(all(isinstance(row["b"], int) for row in case.body["inputs"]))
    response = call(case, serving)
    assert response.status_code == 200, response.text
    case.validate_response(response, checks=CHECKS)


@quick
@given(st.data())
def test_whatever_does_not_fit_the_document_is_refused(serving: Running, data: Any) -> None:
    strategy = SCHEMA[PREDICT]["POST"].as_strategy(GenerationMode.NEGATIVE, media_type=JSON)
    case = data.draw(strategy)
    response = call(case, serving)
    # The check does not know that too many rows are refused by 413.
    refused = [] if response.status_code == 413 else [negative_data_rejection]
    case.validate_response(response, checks=[*CHECKS, *refused])


OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}


@pytest.mark.parametrize("label", OPERATIONS)
@settings(quick, max_examples=3)
@given(st.data())
def test_every_operation_answers_as_the_document_says(
    serving: Running, label: str, data: Any
) -> None:
    case = data.draw(OPERATIONS[label].as_strategy(GenerationMode.POSITIVE))
    case.validate_response(call(case, serving), checks=CHECKS)


@settings(quick, max_examples=12)
@given(st.data())
def test_a_wrong_inference_request_is_answered_as_the_document_says(
    serving: Running, data: Any
) -> None:
    infer = OPERATIONS["POST /v2/models/delays/infer"]
    case = data.draw(infer.as_strategy(GenerationMode.NEGATIVE))
    case.validate_response(call(case, serving), checks=CHECKS)


def test_a_row_without_a_field_that_may_be_left_out_fits_and_an_unknown_field_does_not() -> None:
    row = document(RELEASE)["components"]["schemas"]["Row"]
    validator = jsonschema_rs.validator_for(row)
    good = {"a": None, "b": 7, "moment": "2013-10-01T12:00:00Z"}
    assert validator.is_valid(good)
    for wrong in (
        {**good, "z": 1},
        {**good, "b": None},
        {**good, "b": 2**63},
        {**good, "a": 1e39},
        {**good, "word": "x" * 4_097},
        {name: value for name, value in good.items() if name != "b"},
    ):
        assert not validator.is_valid(wrong)


def test_the_document_is_for_who_may_ask_the_endpoint(serving: Running) -> None:
    path = "/v1/endpoints/delays/openapi.json"
    told = serving.client.get(path, headers=TOKEN)
    assert told.json() == document(RELEASE)
    assert told.json()["info"]["version"] == "release_2"
    assert serving.client.get(path).status_code == 401
    missing = path.replace("delays", "nothing")
    assert serving.client.get(missing, headers=TOKEN).status_code == 404
    serving.refused |= {"user:eve endpoints.predict"}
    eve = {"authorization": "Bearer user:eve"}
    assert serving.client.get(path, headers=eve).status_code == 403


def test_numbers_at_the_edge_of_their_type_are_taken_and_beyond_it_are_not(
    serving: Running,
) -> None:
    row = {"a": 3.4028234e38, "b": 2**63 - 1, "moment": "2013-10-01T12:00:00Z"}
    assert serving.predict({"inputs": [row]}).status_code == 200
    for name, value in (("a", 3.5e38), ("b", 2**63)):
        assert serving.predict({"inputs": [{**row, name: value}]}).status_code == 400

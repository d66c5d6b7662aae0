"""Features behind a prediction are told to those alone who may read them."""

from __future__ import annotations

from typing import Any

import pytest

from falaj.serving.featurebodies import ARROW
from falaj.testing.serving import Running, make_release

BODY = {"inputs": [{"a": 0.5, "b": -1.25, "c": 2.0}]}
EXPLAINED = ("features", "contributions,features")


@pytest.fixture
def refused(running: Running) -> Running:
    """A worker where amina may not be told features, but for one purpose."""
    running.activate(make_release())
    running.refused.add("user:amina explain for None")
    return running


@pytest.mark.parametrize("explain", EXPLAINED)
def test_who_may_not_read_features_is_not_told_them_with_a_prediction(
    refused: Running, explain: str
) -> None:
    for _ in range(3):  # also where the connection and the token are remembered
        assert refused.predict(BODY).status_code == 200
        answer = refused.predict(BODY, params={"explain": explain})
        assert answer.status_code == 403
        assert "0.5" not in answer.text


@pytest.mark.parametrize(
    "headers", [{"accept": "text/event-stream"}, {"content-type": ARROW.decode()}]
)
def test_not_in_another_form_either(refused: Running, headers: dict[str, Any]) -> None:
    answer = refused.predict(b"{}", params={"explain": "features"}, headers=headers)
    assert answer.status_code == 403


def test_a_stated_purpose_that_permits_it_shows_them(refused: Running) -> None:
    answer = refused.predict(
        BODY, params={"explain": "features"}, headers={"falaj-purpose": "support"}
    )
    assert answer.json()["predictions"][0]["features"]["a"]["value"] == 0.5
    again = refused.predict(BODY, params={"explain": "features"})
    assert again.status_code == 403


def test_an_unknown_endpoint_is_told_as_before(refused: Running) -> None:
    answer = refused.predict(BODY, endpoint="nothing", params={"explain": "features"})
    assert answer.status_code == 404

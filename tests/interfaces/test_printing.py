"""What people and scripts see of an answer."""

from __future__ import annotations

import io
from typing import Any

import pytest
from pydantic import BaseModel
from rich.console import Console

from falaj.interfaces.printing import show, show_only
from falaj.interfaces.texts import from_text
from falaj.kernel.errors import InvalidInput
from falaj.trust.service import AccountsService


class Answer(BaseModel):
    id: str
    counts: dict[str, int] = {}
    parts: list[dict[str, Any]] = []
    empty: str = ""


def printed(result: Any, *, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    show(console, result, as_json=False)
    return console.export_text()


def only(result: Any, field: str) -> list[str]:
    console = Console(width=20, record=True, file=io.StringIO())
    show_only(console, result, field)
    return console.export_text().splitlines()


def test_what_is_nested_in_an_answer_is_shown_as_fields_and_tables() -> None:
    lines = printed(
        Answer(id="a", counts={"read": 3}, parts=[{"name": "x", "n": 1}, {"name": "y", "n": 2}])
    ).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "id a", "counts read 3", "parts name n", "x 1", "y 2", "empty",
    ]  # fmt: skip


def test_the_id_in_a_list_is_never_cut_and_empty_columns_are_left_out() -> None:
    name = "change_" + "0" * 32
    text = printed([Answer(id=name, counts={"n": 1}), Answer(id=name)], width=50)
    assert text.count(name) == 2
    assert "counts" not in text and "empty" not in text


def test_a_result_that_has_a_form_for_people_is_shown_in_it_and_whole_as_json() -> None:
    class Turned(Answer):
        def for_people(self) -> dict[str, Any]:
            return {"first": self.empty or "nothing"}

    assert printed(Turned(id="a")).split() == ["first", "nothing"]
    console = Console(width=80, record=True, file=io.StringIO())
    show(console, Turned(id="a"), as_json=True)
    assert '"id": "a"' in console.export_text()


def test_one_field_is_printed_whole_and_plain_one_line_for_each_item() -> None:
    long = "x" * 60
    assert only([Answer(id=long), Answer(id="b")], "id") == [long, "b"]
    assert only(Answer(id="a", counts={"read": 3}), "counts.read") == ["3"]
    assert only([], "id") == []


def test_a_field_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(InvalidInput, match="no field 'nam'") as told:
        only(Answer(id="a"), "nam")
    assert "id, counts, parts, empty" in told.value.hint


def test_lists_of_words_may_stand_between_commas_or_as_json() -> None:
    invite = next(one for one in AccountsService.actions() if one.verb == "invite")
    assert from_text(invite, "roles", "approver, auditor") == ["approver", "auditor"]
    assert from_text(invite, "roles", '["approver"]') == ["approver"]
    assert from_text(invite, "roles", "approver") == ["approver"]
    assert from_text(invite, "name", "a,b") == "a,b"

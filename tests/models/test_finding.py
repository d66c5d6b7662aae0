"""The search of models and versions against a naive filter, and its pages."""

import base64
import importlib.util
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import InvalidInput
from falaj.models.finding import Question

_PATH = Path(__file__).with_name("registered.py")
_SPEC = importlib.util.spec_from_file_location("models_registered", _PATH)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)

NAMES = ("late", "Late", "la_e", "l%te", "early", "risk..late", "risk..early", "risk2..late")
VALUES = ("a", "A", "b", "a%", "[a]", "a*", "a?", "it's", "\\", "ab")
MODELS = {
    name: {
        key: VALUES[(place * 3 + n) % len(VALUES)]
        for n, key in enumerate(("x", "y z")[:place % 3])
    }
    for place, name in enumerate(NAMES)
}  # fmt: skip


def filling(database):
    kept = _MODULE.Registered(database)
    for name, tags in MODELS.items():
        kept.made(name, 2, tags=tags)
    return kept


@pytest.fixture
def on_both(database):
    return filling(database)


@pytest.fixture
def filled(sqlite_database):
    return filling(sqlite_database)


def found(kept, **asked):
    with kept.call() as call:
        return kept.parts.finder.models(call, Question(**{"limit": 1000, **asked}))


def like(text, pattern, *, flags=0):
    regex = "".join({"%": ".*", "_": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(regex, text, flags | re.DOTALL) is not None


NAIVE = {
    "=": lambda text, value: text == value,
    "!=": lambda text, value: text != value,
    "LIKE": like,
    "ILIKE": lambda text, value: like(text, value, flags=re.IGNORECASE),
    "IN": lambda text, value: text in value,
    "NOT IN": lambda text, value: text not in value,
}


def quoted(value):
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "(" + ", ".join(map(quoted, value)) + ")"
    return "'" + value.replace("'", "''") + "'"


patterns = st.one_of(
    st.sampled_from([*NAMES, *VALUES, "%", "la%", "_ate", "%LATE", ""]),
    st.text("aAlte%_[*?\\'", max_size=4),
)
comparison = st.sampled_from(["=", "!=", "LIKE", "ILIKE"])
on_name = st.tuples(st.just("name"), comparison, patterns) | st.tuples(
    st.just("name"), st.sampled_from(["IN", "NOT IN"]),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(tuple),
)  # fmt: skip
on_tag = st.tuples(
    st.sampled_from(["tags.x", "tag.`y z`", "tags.none"]), comparison, patterns
) | st.tuples(st.just("tags.x"), st.sampled_from(["IS NULL", "IS NOT NULL"]), st.none())
filters = st.lists(on_name | on_tag, max_size=3)


def fits(name, tags, conditions):
    for key, comparator, value in conditions:
        text = name if key == "name" else tags.get(key.partition(".")[2].strip("`"))
        if value is None:
            if (text is None) != (comparator == "IS NULL"):
                return False
        elif text is None or not NAIVE[comparator](text, value):
            return False
    return True


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(conditions=filters, lower=st.booleans())
def test_the_search_finds_what_a_naive_filter_finds(on_both, conditions, lower):
    joint = " and " if lower else "  AND "
    text = joint.join(
        f"{key} {sign.lower() if lower else sign} {quoted(value)}"
        for key, sign, value in conditions
    )
    wanted = {name for name, tags in MODELS.items() if fits(name, tags, conditions)}
    assert {one.name for one in found(on_both, filter=text).models} == wanted


ORDERS = [(), ("name DESC",), ("creation_timestamp DESC",), ("last_updated_timestamp ASC",)]


def test_the_pages_of_a_search_are_the_whole_in_order(on_both):
    wholes = {
        order: [one.name for one in found(on_both, order_by=order).models] for order in ORDERS
    }
    on_both.hidden |= {"model:Late", "model:early"}
    for order, whole in wholes.items():
        for limit in (1, 3, 6):
            pages, token = [], None
            while token or not pages:
                page = found(on_both, order_by=order, limit=limit, page=token)
                pages += [one.name for one in page.models]
                token = page.next_page
            assert pages == [name for name in whole if name not in ("Late", "early")]


def test_what_a_caller_may_not_see_is_in_no_answer(filled):
    filled.hidden |= {"model:late", "model_version:Late/1"}
    with filled.call() as call:
        versions = filled.parts.finder.versions(call, Question(filter="name ILIKE 'late'"))
    assert [(one.model, one.version) for one in versions.versions] == [("Late", 2)]
    assert "late" not in {one.name for one in found(filled).models}


def test_a_workspace_has_its_own_models_under_their_own_names(filled):
    risk = found(filled, workspace="risk", filter="name = 'late'")
    assert [one.name for one in risk.models] == ["risk..late"]
    assert {one.name for one in found(filled, workspace="risk").models} == {
        "risk..late", "risk..early",
    }  # fmt: skip
    none = {one.name for one in found(filled, workspace="").models}
    assert none == {name for name in NAMES if ".." not in name}
    with filled.call() as call:
        asked = Question(workspace="risk", filter="name LIKE 'e%' AND version_number > 1")
        (only,) = filled.parts.finder.versions(call, asked).versions
    assert (only.model, only.version) == ("risk..early", 2)


def test_versions_are_found_by_number_run_source_and_stage(filled):
    def versions(text):
        with filled.call() as call:
            asked = Question(filter=text, order_by=("version_number ASC",))
            return [one.version for one in filled.parts.finder.versions(call, asked).versions]

    assert versions("name = 'late' AND version_number >= 2") == [2]
    assert versions("name = 'late' AND run_id IN ('run_1', 'run_2')") == [1, 2]
    assert versions("name = 'late' AND run_id = 'run_2'") == []
    assert versions("name = 'late' AND source_path LIKE '%/model' AND stage = 'development'") == [
        1,
        2,
    ]
    for wrong in ("1.5'", "'one'", "late", "1 OR 1 = 1"):
        with pytest.raises(InvalidInput):
            versions(f"version_number = {wrong}")


@pytest.mark.parametrize("text", ["tags.`mlflow.prompt.is_prompt` != 'true'",
                                  "tag.`mlflow.prompt.is_prompt` = 'false'"])  # fmt: skip
def test_no_model_is_a_prompt(filled, text):
    assert len(found(filled, filter=text).models) == len(NAMES)
    other = text.replace("!=", "=") if "!=" in text else text.replace("false", "true")
    assert found(filled, filter=other).models == []


WRONG = ["name", "name =", "name = late", "= 'a'", "name = 'a' OR name = 'b'", "metrics.x > 1",
         "name = 'a' name = 'b'", "name > 'a'", "name IN ()", "name IN 'a'", "name NOT 'a'",
         "colour = 'a'", "tags.x > 'a'", "name = 'a", "name = 'a' AND", "(name = 'a')", "name = 1",
         "x.y = 'a'",
         "name IS NULL", "name = 'a'; DROP TABLE models", "name = 'a' -- x", "name = '\0'",
         "name = '" + "a" * 30_000 + "'", " AND ".join(["name = 'a'"] * 51),
         "name IN (" + ", ".join(["'a'"] * 2_000) + ")", "tags. = 'a'", "😀 = 'a'",
         "name LIKE '" + "%a" * 40 + "'", "name ILIKE '" + "a" * 2_000 + "'"]  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_filter_that_cannot_be_read_is_refused_with_a_way_out(filled, text):
    with pytest.raises(InvalidInput):
        found(filled, filter=text)


@pytest.mark.parametrize("clause", ["", "colour", "name UP", "name ASC DESC", "name; DROP", "  "])
def test_an_order_that_cannot_be_read_is_refused(filled, clause):
    with pytest.raises(InvalidInput):
        found(filled, order_by=(clause,))


def test_a_token_of_another_search_or_of_nobody_is_refused(filled):
    token = found(filled, limit=1).next_page
    digest = json.loads(base64.urlsafe_b64decode(token))[0]
    forged = [json.dumps([digest, told]) for told in ([1], [], [None], "x", ["a", "b"], [{"a": 1}])]
    odd = [base64.urlsafe_b64encode(text.encode()).decode() for text in [*forged, "{}", "[]", "1"]]
    for wrong in ("x", "😀", "a" * 9_000, "%00", *odd):
        with pytest.raises(InvalidInput, match="page token"):
            found(filled, limit=1, page=wrong)
    with pytest.raises(InvalidInput, match="page token"):
        found(filled, limit=1, page=token, filter="name = 'late'")

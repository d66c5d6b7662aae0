"""The grammar of filters: what is one, what it means, and that nothing else gets through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.trust.provisioning_filters import (
    DEEPEST,
    MOST_LETTERS,
    AttributePath,
    Comparison,
    Filter,
    Having,
    Joined,
    Negated,
    Present,
    fits,
    narrowed,
    parsed_filter,
    parsed_path,
)
from falaj.trust.provisioning_model import NotProvisionable

AMINA: dict[str, Any] = {
    "id": "user_1",
    "externalId": "A-1",
    "userName": "Amina@Corp.ae",
    "active": True,
    "name": {"givenName": "Amina", "familyName": "Haddad"},
    "emails": [
        {"value": "amina@corp.ae", "type": "work", "primary": True},
        {"value": "a@home.ae", "type": "home"},
    ],
    "groups": [{"value": "group_1", "display": "Engineers"}],
    "meta": {"created": "2026-11-23T08:00:00.000Z", "lastModified": "2026-11-23T09:00:00.000Z"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('userName eq "amina@corp.ae"', True),
        ('USERNAME EQ "AMINA@CORP.AE"', True),
        ('urn:ietf:params:scim:schemas:core:2.0:User:userName eq "amina@corp.ae"', True),
        ('userName eq "omar"', False),
        ('userName ne "omar"', True),
        ('title ne "chief"', True),
        ('title eq null', True),
        ('userName eq null', False),
        ('externalId eq "A-1"', True),
        ('externalId eq "a-1"', False),
        ('userName sw "AMI" and userName ew ".ae" and userName co "@"', True),
        ('name.familyName eq "haddad"', True),
        ('emails eq "a@home.ae"', True),
        ('emails.type eq "home"', True),
        ('emails[type eq "work" and value co "@corp"]', True),
        ('emails[type eq "home" and value co "@corp"]', False),
        ('emails[type eq "work"] and active eq true', True),
        ("active eq false", False),
        ("active ne false", True),
        ("title pr", False),
        ("name pr and emails pr", True),
        ('not (userName eq "omar")', True),
        ('not (active eq true) or userName sw "a"', True),
        ('active eq false and active eq false or active eq true', True),
        ('active eq true or active eq true and active eq false', True),
        ('(active eq true or active eq true) and active eq false', False),
        ('meta.lastModified gt "2026-11-23T08:30:00Z"', True),
        ('meta.lastModified lt "2026-11-23T12:00:00+04:00"', False),
        ('groups.display eq "engineers"', True),
        ('userName gt 5', False),
        ('nonsense eq "x"', False),
        ('userName eq "a\\u006dina@corp.ae"', True),
    ],
)  # fmt: skip
def test_a_filter_means_what_the_standard_says(text: str, expected: bool) -> None:
    assert fits(AMINA, parsed_filter(text)) is expected


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "userName", "userName eq", "userName eq amina", 'userName is "x"',
        'userName eq "x" and', 'and userName eq "x"', '(userName eq "x"', 'userName eq "x")',
        'userName eq "x" userName eq "y"', 'emails[type eq "work"', 'emails[]', "not userName pr",
        'userName eq "x', "userName eq 'x'", 'userName eq {"a": 1}', "userName eq [1]",
        'user name eq "x"', "1userName pr", 'userName.a.b eq "x"', 'active gt true',
        "active co null",
        'userName eq "\\ud800"', 'userName eq "a\\u0000"', 'meta.created gt "yesterday"; drop',
        'userName eq NaN', "userName eq Infinity", 'http://x:userName eq "x"',
        'userName eq "x"; DROP TABLE accounts', "userName eq \"x\" -- ", "' OR 1=1 --",
        '$where eq', "(" * 30 + "userName pr" + ")" * 30, "userName pr or " * 100 + "userName pr",
        'userName eq "' + "x" * MOST_LETTERS + '"',
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused_with_its_word(text: str) -> None:
    with pytest.raises(NotProvisionable) as caught:
        parsed_filter(text)
    assert caught.value.scim_type == "invalidFilter"


def test_an_instant_that_is_none_is_refused_when_it_is_compared() -> None:
    for text in ('meta.created gt "yesterday"', 'meta.created gt "2026-11-23T08:00:00"'):
        with pytest.raises(NotProvisionable):
            fits(AMINA, parsed_filter(text))


@pytest.mark.parametrize(
    ("text", "path", "has_filter"),
    [
        ("userName", AttributePath("userName"), False),
        ("name.familyName", AttributePath("name", "familyName"), False),
        ('emails[type eq "work"]', AttributePath("emails"), True),
        ('emails[type eq "work"].value', AttributePath("emails", "value"), True),
        (
            "urn:ietf:params:scim:schemas:core:2.0:User:active",
            AttributePath("active", None, "urn:ietf:params:scim:schemas:core:2.0:User"),
            False,
        ),
    ],
)
def test_a_path_names_an_attribute_and_perhaps_which_value(
    text: str, path: AttributePath, has_filter: bool
) -> None:
    found, which = parsed_path(text)
    assert found == path
    assert (which is not None) is has_filter


@pytest.mark.parametrize(
    "text", ["", ".", "a b", "emails[", 'emails[type eq "work"]x', 'emails[type eq "w"].', "a.b.c",
             'emails.value[type eq "w"].type', "../x"]
)  # fmt: skip
def test_what_is_no_path_is_refused_with_its_word(text: str) -> None:
    with pytest.raises(NotProvisionable) as caught:
        parsed_path(text)
    assert caught.value.scim_type == "invalidPath"


def test_a_filter_tells_what_it_demands_and_only_that() -> None:
    assert narrowed(parsed_filter('userName eq "x" and active eq true'), "userName") == "x"
    assert narrowed(parsed_filter('userName eq "x" or active eq true'), "userName") is None
    assert narrowed(parsed_filter('not (userName eq "x")'), "userName") is None
    assert narrowed(parsed_filter('name.userName eq "x"'), "userName") is None
    assert narrowed(parsed_filter("userName eq 5"), "userName") is None


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True).filter(
    lambda name: name.lower() not in ("not", "and", "or", "pr")
)
PATHS = st.builds(AttributePath, NAMES, st.none() | NAMES)
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)
COMPARISONS = st.one_of(
    st.builds(
        Comparison, PATHS, st.sampled_from(["eq", "ne", "co", "sw", "ew", "gt", "le"]), TEXTS
    ),
    st.builds(Comparison, PATHS, st.sampled_from(["eq", "ne"]), st.none() | st.booleans()),
    st.builds(Comparison, PATHS, st.sampled_from(["eq", "lt", "ge"]), st.integers(-99, 99)),
)
FILTERS = st.recursive(
    COMPARISONS | st.builds(Present, PATHS),
    lambda inner: st.one_of(
        st.builds(Negated, inner),
        st.builds(Having, PATHS, inner),
        st.builds(
            Joined,
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=2, max_size=3).map(tuple),
        ),
    ),
    max_leaves=6,
)


def written(wanted: Filter) -> str:
    """A filter as a text, with brackets around all that is joined."""

    def path(one: AttributePath) -> str:
        return one.attribute + (f".{one.part}" if one.part else "")

    if isinstance(wanted, Comparison):
        return f"{path(wanted.path)} {wanted.operator} {json.dumps(wanted.value)}"
    if isinstance(wanted, Present):
        return f"{path(wanted.path)} pr"
    if isinstance(wanted, Negated):
        return f"not ({written(wanted.item)})"
    if isinstance(wanted, Having):
        return f"{path(wanted.path)}[{written(wanted.fits)}]"
    return "(" + f" {wanted.word} ".join(written(one) for one in wanted.items) + ")"


def depth(wanted: Filter) -> int:
    if isinstance(wanted, Joined):
        return 1 + max(map(depth, wanted.items))
    if isinstance(wanted, Negated):
        return 1 + depth(wanted.item)
    return 1 + depth(wanted.fits) if isinstance(wanted, Having) else 0


@settings(max_examples=60)
@given(FILTERS)
def test_a_filter_that_is_written_down_is_read_back_as_it_was(wanted: Filter) -> None:
    text = written(wanted)
    if depth(wanted) <= DEEPEST and len(text) <= MOST_LETTERS:
        assert parsed_filter(text) == wanted


@settings(max_examples=60)
@given(st.text(max_size=60) | st.text('()[]" \\eqandorpt.userName:1', max_size=60))
def test_any_text_is_a_filter_or_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        fits(AMINA, parsed_filter(text))
    except NotProvisionable as error:
        assert error.scim_type == "invalidFilter"


@settings(max_examples=60)
@given(FILTERS)
def test_a_filter_and_its_opposite_never_agree(wanted: Filter) -> None:
    try:
        found = fits(AMINA, wanted)
    except NotProvisionable:
        return
    assert fits(AMINA, Negated(wanted)) is not found

"""Rules for jobs of CI systems: what fits a pattern, and which settings are none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings_ci import CiRule, CiSettings
from falaj.trust.ci import TokenRefused, pattern_of, rule_for, rules_of

RULE: dict[str, Any] = {
    "name": "main", "issuer": "https://gitlab.corp.ae", "audience": "falaj", "account": "deployer",
    "claims": {"project_path": "corp/models"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("org/repo", "org/repo", True),
        ("org/repo", "org/repo-evil", False),
        ("org/repo", "evil/org/repo", False),
        ("org/repo", "ORG/repo", False),
        ("org/*", "org/repo", True),
        ("org/*", "org/a/b", False),
        ("org/*", "org", False),
        ("org/*", "org-evil/repo", False),
        ("repo:org/*:ref:refs/heads/main", "repo:org/x:ref:refs/heads/main", True),
        ("repo:org/*:ref:refs/heads/main", "repo:org/x:pull_request:ref:refs/heads/main", False),
        ("refs/tags/v*", "refs/tags/v1.2", True),
        ("refs/tags/v*", "refs/tags/v1/evil", False),
        ("refs/heads/**", "refs/heads/a/b", True),
        ("org/r.po", "org/repo", False),
        ("org/repo", "org/repo\n", False),
        ("[a-z]+", "abc", False),
        ("a|b", "a", False),
    ],
)
def test_a_pattern_fits_from_its_first_letter_to_its_last(
    pattern: str, text: str, fits: bool
) -> None:
    assert (pattern_of(pattern).fullmatch(text) is not None) is fits


@given(st.text(max_size=20))
def test_a_pattern_without_a_star_fits_itself_and_nothing_longer(text: str) -> None:
    text = text.replace("*", "")
    pattern = pattern_of(text)
    assert pattern.fullmatch(text)
    for more in ("x", "/", "\n", "-evil"):
        assert not pattern.fullmatch(text + more)
        assert not pattern.fullmatch(more + text)


PART = st.text("abc-./:", max_size=6)


@given(PART, PART, st.text("abc-./:", max_size=10))
def test_a_star_stays_within_one_part_of_a_name(begin: str, end: str, inside: str) -> None:
    fits = pattern_of(f"{begin}*{end}").fullmatch(begin + inside + end) is not None
    if not {"/", ":"} & set(inside):
        assert fits
    one_part = pattern_of("*").fullmatch(inside) is not None
    assert one_part == (not {"/", ":"} & set(inside))


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://gitlab.corp.ae"}, {"issuer": "gitlab.corp.ae"},
        {"issuer": "https://u:p@gitlab.corp.ae"}, {"issuer": "https://x?y=1"},
        {"claims": {}}, {"claims": {"ref": "refs/heads/main"}}, {"claims": {"sub": "*"}},
        {"claims": {"repository": "*/models"}}, {"claims": {"sub": ""}},
        {"claims": {"sub": "repo:**"}}, {"claims": {"repository": "c**"}},
        {"claims": {"sub": "project_path:**"}}, {"claims": {"repository_id": "1*"}},
        {"claims": {"repository_owner": "corp*"}},
        {"claims": {"sub": "x", "iss": "y"}}, {"claims": {"sub": "x", "exp": "y"}},
        {"claims": {"sub": "x", "a b": "y"}}, {"minutes": 16}, {"minutes": 0}, {"name": "A B"},
        {"audience": ""}, {"secret": "x"},
    ],
)  # fmt: skip
def test_a_rule_that_would_let_in_too_many_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CiRule(**{**RULE, **changes})


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two rules"):
        CiSettings(rules=(CiRule(**RULE), CiRule(**RULE)))


def test_a_role_that_does_not_exist_is_refused_when_rules_are_read() -> None:
    with pytest.raises(InvalidInput, match="main"):
        rules_of([CiRule(**{**RULE, "roles": ("root",)})])


def test_the_first_rule_that_fits_decides_or_the_one_for_the_account_that_is_asked_for() -> None:
    rules = rules_of(
        CiRule(**{**RULE, "name": name, "account": account, "claims": claims})
        for name, account, claims in (
            ("protected", "deployer", {"project_path": "corp/models", "ref_protected": "true"}),
            ("any", "planner", {"project_path": "corp/models"}),
        )
    )
    job = {"iss": RULE["issuer"], "aud": "falaj", "project_path": "corp/models"}
    assert rule_for(job, rules).name == "any"
    protected = {**job, "ref_protected": True}
    assert rule_for(protected, rules).name == "protected"
    assert rule_for(protected, rules, account="planner").name == "any"
    with pytest.raises(TokenRefused, match="no-rule"):
        rule_for(job, rules, account="deployer")


@pytest.mark.parametrize("audience", ["other", ["falaj", "other"], [], None, 5, "falaj/", "FALAJ"])
def test_a_token_for_another_audience_fits_no_rule(audience: Any) -> None:
    job = {"iss": RULE["issuer"], "aud": audience, "project_path": "corp/models"}
    with pytest.raises(TokenRefused, match="audience"):
        rule_for(job, rules_of([CiRule(**RULE)]))


@pytest.mark.parametrize("value", [None, ["corp/models"], {"a": 1}, 1.5, "corp/models "])
def test_a_claim_of_another_kind_fits_nothing(value: Any) -> None:
    job = {"iss": RULE["issuer"], "aud": "falaj", "project_path": value}
    with pytest.raises(TokenRefused, match="no-rule"):
        rule_for(job, rules_of([CiRule(**RULE)]))

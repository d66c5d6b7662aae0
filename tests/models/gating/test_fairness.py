"""Groups: what is unequal is found with its interval, noise is not, personal words stay untold."""

import numpy as np
import pytest

from falaj.models.gating.fairness import OTHERS, compared, fairness_gate, rates_of
from falaj.models.gating.rules import FairnessRule
from falaj.models.model import Outcome

RULE = FairnessRule(column="g")


def people(made, n=6000, seed=3, groups=("f", "m")):
    """Rows of people in groups."""
    random = np.random.default_rng(seed)
    return made.rows(n, seed=seed, g=np.array(groups)[random.integers(0, len(groups), n)].tolist())


def biased(made, rows):
    """A scorer that favours the word ``a`` of the column ``w``."""
    return made.examined(rows, function=lambda m: made.sigmoid(m[:, 0] + 3.0 * (m[:, 2] == 0)))


def test_groups_that_are_decided_about_alike_pass_with_their_rates(made):
    found = fairness_gate(RULE)(made.examined(people(made)))
    assert found.outcome is Outcome.PASSED
    assert set(found.evidence["gaps"]) == {
        "demographic_parity", "true_positive_rate", "false_positive_rate",
    }  # fmt: skip
    assert [one["group"] for one in found.evidence["groups"]["demographic_parity"]] == ["f", "m"]
    assert 0.8 < found.evidence["impact_ratio"] <= 1


def test_a_group_that_is_favoured_is_found_and_named(made):
    rule = RULE.model_copy(update={"column": "w"})
    found = fairness_gate(rule)(biased(made, people(made)))
    assert found.outcome is Outcome.FAILED
    gap = found.evidence["gaps"]["demographic_parity"]
    assert "a" in gap["between"]
    assert gap["low"] > 0.1


def test_demographic_parity_alone_may_be_asked_for(made):
    rule = FairnessRule(column="w", equalised_odds=None, demographic_parity=1.0)
    found = fairness_gate(rule)(biased(made, people(made)))
    assert found.outcome is Outcome.PASSED
    assert list(found.evidence["gaps"]) == ["demographic_parity"]


def test_where_certainty_is_asked_for_few_rows_do_not_do(made):
    rows = people(made, 1500)
    strict = RULE.model_copy(update={"require": "surely_within", "demographic_parity": 0.05})
    assert fairness_gate(strict)(made.examined(rows)).outcome is Outcome.FAILED


def test_small_groups_are_counted_and_not_compared(made):
    rows = people(made, 3000, groups=("f", *["m"] * 40))
    found = fairness_gate(RULE)(made.examined(rows))
    assert found.outcome is Outcome.SKIPPED
    assert found.evidence["too_small"]["demographic_parity"] == 1


def with_few_positives(function=lambda m: np.full(len(m), 0.2)):
    """A maker of a version before two groups of 2,000 test rows, 90 of each with label 1."""

    def version(made):
        random = np.random.default_rng(6)
        n = 4_000
        group = np.arange(n) % 2
        rows = made.rows(
            n,
            split=["test"] * (n - 2) + ["train"] * 2,
            g=np.array(["f", "m"])[group].tolist(),
            n=random.random(n),
            w=np.array(["a", "b"])[group].tolist(),
            y=np.arange(n) < 180,
        )
        return made.examined(rows, function=function)

    return version


def test_where_certainty_is_asked_for_a_measure_without_large_groups_fails(made):
    rule = RULE.model_copy(update={"require": "surely_within"})
    found = fairness_gate(rule)(with_few_positives()(made))
    assert found.outcome is Outcome.FAILED
    assert "true positive rate not judged: fewer than two groups have 100 rows" in found.message
    assert found.evidence["not_judged"] == ["true_positive_rate"]
    assert all(gap["high"] < 0.1 for gap in found.evidence["gaps"].values())
    enough = rule.model_copy(update={"least_rows": 90})
    assert fairness_gate(enough)(with_few_positives()(made)).outcome is Outcome.PASSED


def test_a_measure_without_large_groups_never_passes_on_the_others(made):
    found = fairness_gate(RULE)(with_few_positives()(made))
    assert found.outcome is Outcome.SKIPPED
    assert "true positive rate not judged" in found.message
    assert "demographic parity 0.000" in found.message
    alone = RULE.model_copy(update={"equalised_odds": None})
    assert fairness_gate(alone)(with_few_positives()(made)).outcome is Outcome.PASSED


def test_what_another_measure_finds_still_fails(made):
    favoured = with_few_positives(lambda m: np.where(m[:, 2] == 0, 0.9, 0.2))
    found = fairness_gate(RULE)(favoured(made))
    assert found.outcome is Outcome.FAILED
    assert "not judged" in found.message
    assert "demographic parity 1.000" in found.message


@pytest.mark.parametrize(
    ("require", "outcome"),
    [("surely_within", Outcome.FAILED), ("not_surely_beyond", Outcome.SKIPPED)],
)
def test_one_group_alone_shows_nothing(made, require, outcome):
    rule = RULE.model_copy(update={"require": require})
    found = fairness_gate(rule)(made.examined(people(made, groups=("f",))))
    assert found.outcome is outcome
    assert len(found.evidence["not_judged"]) == 3


def test_a_rule_without_limits_asks_nothing(made):
    rule = FairnessRule(column="g", equalised_odds=None, demographic_parity=None)
    found = fairness_gate(rule)(made.examined(people(made)))
    assert (found.outcome, found.message) == (Outcome.SKIPPED, "the rule has no limit")


def test_a_personal_column_needs_named_groups_and_tells_no_other_word(made):
    rows = people(made, groups=("f", "m", "rare secret"))
    version = made.examined(rows, personal=frozenset({"g"}))
    found = fairness_gate(RULE)(version)
    assert found.outcome is Outcome.FAILED
    assert "personal" in found.message
    found = fairness_gate(RULE.model_copy(update={"groups": ("f", "m")}))(version)
    assert found.outcome is Outcome.PASSED
    assert "rare secret" not in found.model_dump_json()
    assert OTHERS in found.model_dump_json()


def test_a_column_of_a_hundred_words_holds_no_groups(made):
    rows = people(made, groups=tuple(f"person {i}" for i in range(100)))
    found = fairness_gate(RULE)(made.examined(rows))
    assert found.outcome is Outcome.FAILED
    assert "too many" in found.message
    assert "person 7" not in found.model_dump_json()


def test_the_rates_are_those_of_the_definition():
    groups = np.array(["a", "a", "a", "b", "b", "b"], dtype=object)
    decided = np.array([True, False, True, True, False, False])
    labels = np.array([1.0, 1, 0, 1, 0, 0])
    found = {m: [(r.group, r.positive, r.n) for r in rates]
             for m, rates in rates_of(groups, decided, labels).items()}  # fmt: skip
    assert found == {
        "demographic_parity": [("a", 2, 3), ("b", 1, 3)],
        "true_positive_rate": [("a", 1, 2), ("b", 1, 1)],
        "false_positive_rate": [("a", 1, 1), ("b", 0, 2)],
    }


def coverage(rounds, shares, n=400):
    """How often the interval of the greatest difference of all holds the truth."""
    random = np.random.default_rng(5)
    truth = max(shares) - min(shares)
    rule = FairnessRule(column="g", equalised_odds=None)
    hits = 0
    for _ in range(rounds):
        groups = np.repeat([str(i) for i in range(len(shares))], n).astype(object)
        decided = random.random(groups.size) < np.repeat(shares, n)
        rates = rates_of(groups, decided, np.zeros(groups.size))
        (gap,), _ = compared(rule, rates)
        hits += gap.found.low <= truth <= gap.found.high
    return hits / rounds


@pytest.mark.parametrize("shares", [(0.3, 0.3, 0.3, 0.3), (0.2, 0.25, 0.3, 0.4)])
def test_the_greatest_difference_lies_in_its_interval_as_often_as_it_says(shares):
    assert coverage(150, shares) >= 0.92


@pytest.mark.nightly
@pytest.mark.parametrize("shares", [(0.3,) * 6, (0.02, 0.02, 0.05), (0.2, 0.25, 0.3, 0.4)])
def test_the_greatest_difference_lies_in_its_interval_at_every_share(shares):
    assert coverage(2000, shares) >= 0.95 - 3 * (0.95 * 0.05 / 2000) ** 0.5

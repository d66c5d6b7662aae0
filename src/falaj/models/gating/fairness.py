"""Whether groups are decided about alike: demographic parity and equalised odds, with intervals.

The three rates of a group are its share of positive decisions, and that share among those whose
label is 1 (true positives) and 0 (false positives): Hardt, Price and Srebro, NeurIPS 2016. Each
pair of groups is compared by Newcombe's interval of a difference; the confidence is divided by the
number of all intervals of the rule (Bonferroni), so that all of them hold together, and so does the
interval of the greatest difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from falaj.models.gating.examined import Examined, Gate, result, skipped
from falaj.models.gating.proportions import distance, newcombe, wilson
from falaj.models.gating.rules import FairnessRule
from falaj.models.intervals import Interval
from falaj.models.model import GateResult

OTHERS = "(others)"
MOST_GROUPS = 50


@dataclass(frozen=True)
class Rate:
    """So many positive decisions among so many rows of a group."""

    group: str
    positive: int
    n: int


@dataclass(frozen=True)
class Gap:
    """The greatest difference of one rate between two groups."""

    measure: str
    limit: float
    found: Interval
    """Holds together with all others of the rule."""
    between: tuple[str, str]

    def holds(self, rule: FairnessRule) -> bool:
        """True if it is within its limit, as surely as the rule asks."""
        held = self.found.low if rule.require == "not_surely_beyond" else self.found.high
        return held <= self.limit

    def evidence(self) -> dict[str, Any]:
        """As JSON."""
        return {"limit": self.limit, "between": list(self.between), **self.found.evidence()}


def fairness_gate(rule: FairnessRule) -> Gate:
    """No two groups are surely decided about more differently than the rule permits.

    A measure that has a limit, but no two groups that are large enough, is not judged: the gate
    then fails if the rule asks for certainty (``surely_within``), and else never passes: it fails
    by the other measures, or is skipped.
    """
    name = f"fairness:{rule.column}"

    def gate(examined: Examined) -> GateResult:
        if rule.column.lower() in examined.personal and not rule.groups:
            return result(
                name,
                False,
                f"{rule.column} is personal, and the rule does not name which groups to compare",
                {"column": rule.column, "hint": "name them: FairnessRule(groups=…)"},
            )
        groups = grouped(rule, examined.words(rule.column))
        n_groups = len(set(groups.tolist()))
        if n_groups > MOST_GROUPS:
            return result(
                name,
                False,
                f"{rule.column} has {n_groups} values, too many for groups (at most {MOST_GROUPS})",
                {"column": rule.column, "n_groups": n_groups},
            )
        decided = examined.scores >= rule.threshold
        rates = rates_of(groups, decided, examined.labels)
        gaps, n_intervals = compared(rule, rates)
        evidence = _evidence(rule, rates, gaps, n_intervals)
        if not evidence["gaps"] and not evidence["not_judged"]:
            return skipped(name, "the rule has no limit", evidence)
        shown = [
            f"{one.measure.replace('_', ' ')} {one.found.estimate:.3f} "
            f"[{one.found.low:.3f}, {one.found.high:.3f}] between {one.between[0]} and "
            f"{one.between[1]}, asked ≤ {one.limit}"
            for one in gaps
        ]
        good = all(one.holds(rule) for one in gaps)
        if not evidence["not_judged"]:
            return result(name, good, "; ".join(shown), evidence)
        told = ", ".join(one.replace("_", " ") for one in evidence["not_judged"])
        why = f"{told} not judged: fewer than two groups have {rule.least_rows} rows"
        if rule.require == "surely_within" or not good:
            return result(name, False, "; ".join([why, *shown]), evidence)
        return skipped(name, "; ".join([why, *shown]), evidence)

    return gate


def grouped(rule: FairnessRule, words: Any) -> Any:
    """The group of each row: its word, or that of all the others."""
    if not rule.groups:
        return words
    named = np.isin(words.astype(str), np.array(rule.groups, dtype=str))
    return np.where(named, words, OTHERS)


def rates_of(groups: Any, decided: Any, labels: Any) -> dict[str, list[Rate]]:
    """The rates of each group, by measure."""
    parts = {
        "demographic_parity": np.ones(len(labels), dtype=bool),
        "true_positive_rate": labels == 1,
        "false_positive_rate": labels == 0,
    }
    known = sorted(set(groups.tolist()))
    return {
        measure: [
            Rate(group, int((decided & inside).sum()), int(inside.sum()))
            for group in known
            for inside in [part & (groups == group)]
        ]
        for measure, part in parts.items()
    }


def limits_of(rule: FairnessRule) -> dict[str, float]:
    """The limit of each measure that has one."""
    limits = {
        "demographic_parity": rule.demographic_parity,
        "true_positive_rate": rule.equalised_odds,
        "false_positive_rate": rule.equalised_odds,
    }
    return {measure: limit for measure, limit in limits.items() if limit is not None}


def compared(rule: FairnessRule, rates: dict[str, list[Rate]]) -> tuple[list[Gap], int]:
    """The greatest difference of each measure that has a limit and two large groups, and how many
    intervals hold together."""
    limits = limits_of(rule)
    pairs = {
        measure: list(combinations([one for one in rates[measure] if one.n >= rule.least_rows], 2))
        for measure in limits
    }
    n_intervals = sum(len(found) for found in pairs.values())
    confidence = 1 - (1 - rule.confidence) / max(n_intervals, 1)
    gaps = []
    for measure, found in pairs.items():
        if not found:
            continue  # told as not judged
        apart = [
            distance(newcombe(a.positive, a.n, b.positive, b.n, confidence=confidence))
            for a, b in found
        ]
        worst = max(range(len(apart)), key=lambda place: apart[place].estimate)
        together = Interval(
            apart[worst].estimate,
            max(one.low for one in apart),
            max(one.high for one in apart),
        )
        between = (found[worst][0].group, found[worst][1].group)
        gaps.append(Gap(measure, limits[measure], together, between))
    return gaps, n_intervals


def _evidence(
    rule: FairnessRule, rates: dict[str, list[Rate]], gaps: list[Gap], n_intervals: int
) -> dict[str, Any]:
    selected = [
        one.positive / one.n for one in rates["demographic_parity"] if one.n >= rule.least_rows
    ]
    return {
        "rule": rule.model_dump(),
        "gaps": {one.measure: one.evidence() for one in gaps},
        "not_judged": sorted(limits_of(rule).keys() - {one.measure for one in gaps}),
        "n_intervals": n_intervals,
        "method": "Newcombe 1998, all intervals together (Bonferroni)",
        "impact_ratio": min(selected) / max(selected) if selected and max(selected) > 0 else None,
        "too_small": {
            measure: sum(one.n < rule.least_rows for one in found)
            for measure, found in rates.items()
        },
        "groups": {
            measure: [
                {
                    "group": one.group,
                    "n": one.n,
                    **wilson(one.positive, one.n, confidence=rule.confidence).evidence(),
                }
                for one in found
                if one.n >= rule.least_rows
            ]
            for measure, found in rates.items()
        },
    }

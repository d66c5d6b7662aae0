"""Whether the card tells what a reader must know before relying on the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from falaj.models.cardquality import fairness_section, intervals_of, slices_section
from falaj.models.gating.examined import Examined, Gate, result

if TYPE_CHECKING:
    from falaj.models.gating.rules import CardPart, CardRule
    from falaj.models.model import GateResult, ModelPolicy


def card_gate(rule: CardRule, policy: ModelPolicy) -> Gate:
    """Each part that the rule asks for stands in the card; names those that are missing."""

    def gate(examined: Examined) -> GateResult:
        lacking = {
            part: why for part in rule.needs if (why := _lacks(part, rule, policy, examined))
        }
        told = [f"{part.replace('_', ' ')}: {why}" for part, why in lacking.items()]
        return result(
            "card",
            not lacking,
            "; ".join(told) or f"all of {len(rule.needs)} parts are told",
            {"needs": list(rule.needs), "missing": lacking},
        )

    return gate


def _lacks(part: CardPart, rule: CardRule, policy: ModelPolicy, examined: Examined) -> str:
    """Why a part says too little; empty if it says enough."""
    manifest = examined.bundle.manifest

    def words(text: str) -> str:
        n = len(text.split())
        return "" if n >= rule.least_words else f"{n} words, asked ≥ {rule.least_words}"

    asked: dict[CardPart, Callable[[], str]] = {
        "intended_use": lambda: words(policy.intended_use),
        "limitations": lambda: words(policy.limitations),
        "description": lambda: "" if policy.description.strip() else "the policy has none",
        "owner": lambda: "" if policy.owner or examined.owner else "nobody is named",
        "data": lambda: (
            "" if manifest.training_set_hash else "the rows that it learned from are not known here"
        ),
        "metrics": lambda: (
            "" if intervals_of(examined.earlier) else "no gate measures a metric with an interval"
        ),
        "slices": lambda: "" if slices_section(examined.earlier) else "no gate looks at slices",
        "fairness": lambda: "" if fairness_section(examined.earlier) else "no gate compares groups",
        "inputs": lambda: (
            ""
            if manifest.feature_service and manifest.signature.encoding.features
            else "no feature service is named"
        ),
        "origin": lambda: (
            ""
            if examined.bundle.attestation is not None
            else "the bundle does not attest how it was made"
        ),
    }
    return asked[part]()

"""The gate of the supply chain: what a version is made of, and whether that may be served."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from falaj.models.gating.rules import SupplyChainRule
from falaj.models.mlbom import BOM, distributions, read
from falaj.models.model import GateResult, Outcome
from falaj.models.vulnerabilities import Severity
from falaj.training.distributions import UNKNOWN

if TYPE_CHECKING:
    from falaj.models.bundles import Bundle
    from falaj.models.vulnerabilities import Finding, Vulnerabilities
    from falaj.training.distributions import Distribution

NAME = "supply_chain"
_MOST_SHOWN = 20
_EITHER = re.compile(r"\s+OR\s+", re.IGNORECASE)


def supply_chain(
    rule: SupplyChainRule,
    bundle: Bundle,
    advisories: Vulnerabilities | None,
    now: datetime | None = None,
) -> GateResult:
    """A version says how it was made and of what, and none of that is forbidden.

    Args:
        rule: the thresholds of the model's policy.
        advisories: the known vulnerabilities; None if the settings name none.
        now: today, for the age of what is known.
    """
    bad: list[str] = []
    evidence: dict[str, Any] = {"limits": rule.model_dump(mode="json")}
    if rule.attested and bundle.attestation is None:
        bad.append("the bundle does not attest how its model was made")
    libraries: list[Distribution] = []
    if BOM in bundle.files:
        libraries = distributions(read(bundle.files[BOM]))
    elif rule.attested:
        bad.append("the bundle has no bill of materials")
    evidence["n_distributions"] = len(libraries)
    bad += _licences(rule, libraries, evidence)
    known, told = _vulnerabilities(rule, libraries, advisories, evidence, now or datetime.now(UTC))
    bad += known
    message = "; ".join(bad) or (
        f"{len(libraries)} distributions, licences as asked, {told}" if libraries else told
    )
    outcome = Outcome.FAILED if bad else Outcome.PASSED
    return GateResult(gate=NAME, outcome=outcome, message=message, evidence=evidence)


def denied(licence: str, patterns: Iterable[str]) -> bool:
    """True if a licence is denied, in each of the alternatives that it offers.

    An expression with brackets counts as denied as soon as a part of it is.
    """
    alternatives = [licence] if "(" in licence else _EITHER.split(licence)
    wanted = [pattern.upper() for pattern in patterns]

    def is_denied(text: str) -> bool:
        parts = [text, *re.split(r"\s+(?:AND|OR)\s+|[()\s]*[()][()\s]*", text, flags=re.IGNORECASE)]
        words = [part.partition(" WITH ")[0].strip().upper() for part in parts if part.strip()]
        return any(fnmatchcase(word, pattern) for word in words for pattern in wanted)

    return all(is_denied(one) for one in alternatives)


def _licences(
    rule: SupplyChainRule, libraries: list[Distribution], evidence: dict[str, Any]
) -> list[str]:
    unknown = [one.name for one in libraries if one.licence == UNKNOWN]
    refused = [
        f"{one.name} ({one.licence})"
        for one in libraries
        if one.name not in rule.excepted and denied(one.licence, rule.denied_licences)
    ]
    evidence |= {"unknown_licences": unknown, "denied_licences": refused}
    bad = [f"licences that are denied: {', '.join(refused[:5])}"] if refused else []
    left = [name for name in unknown if name not in rule.excepted]
    if left and not rule.unknown_licences:
        bad.append(f"nobody tells the licence of {', '.join(left[:5])}")
    return bad


def _vulnerabilities(
    rule: SupplyChainRule,
    libraries: list[Distribution],
    advisories: Vulnerabilities | None,
    evidence: dict[str, Any],
    now: datetime,
) -> tuple[list[str], str]:
    """What is wrong, and what to say if nothing is."""
    if advisories is None:
        evidence["vulnerabilities"] = None
        if rule.needs_vulnerabilities:
            return ["no file of vulnerabilities is named in the settings"], ""
        return [], "vulnerabilities not looked for: the settings name no file of them"
    found = advisories.of(libraries)
    age = None if found.newest is None else (now - found.newest).days
    counted = [one for one in found.findings if not one.names & rule.excepted.keys()]
    above = [one for one in counted if one.severity > Severity[rule.worst_severity.upper()]]
    evidence["vulnerabilities"] = {
        "n_records": found.n_records,
        "newest_record": None if found.newest is None else found.newest.isoformat(),
        "age_days": age,
        "n_found": len(found.findings),
        "n_excepted": len(found.findings) - len(counted),
        "found": [_told(one) for one in found.findings[:_MOST_SHOWN]],
    }
    bad = []
    if above:
        shown = ", ".join(f"{one.advisory} in {one.purl} ({one.severity.name.lower()})"
                          for one in above[:3])  # fmt: skip
        bad.append(f"{len(above)} vulnerabilities above {rule.worst_severity}: {shown}")
    if rule.oldest_days is not None and (age is None or age > rule.oldest_days):
        since = "unknown" if age is None else f"{age} days old"
        bad.append(f"what is known of vulnerabilities is {since}, asked ≤ {rule.oldest_days}")
    told = f"{len(counted)} known vulnerabilities, none above {rule.worst_severity}"
    return bad, told if age is None else f"{told} (as known {age} days ago)"


def _told(one: Finding) -> dict[str, Any]:
    return {
        "advisory": one.advisory,
        "aliases": list(one.aliases),
        "purl": one.purl,
        "severity": one.severity.name.lower(),
        "summary": one.summary,
    }

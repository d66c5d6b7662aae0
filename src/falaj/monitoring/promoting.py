"""How a retrained version is promoted: by a standard change inside bounds, else by a person.

The bounds are held against what the gates measured and what the bundles say, never against
what the retraining says of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from falaj.kernel.errors import Forbidden, NotFound
from falaj.monitoring.retrainingwords import Retraining, RetrainingRun, Standard
from falaj.operations.model import Change, ChangeState
from falaj.operations.standard import OutsideBounds

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.models.bundles import Bundles
    from falaj.models.model import GateReport, Manifest
    from falaj.models.registry import Registry


class Asks(Protocol):
    """Opens, or carries out, the change that promotes a version; joins the call's transaction."""

    def ask(
        self, call: Call, model: str, version: int, reason: str, evidence: Mapping[str, Any]
    ) -> Change:
        """A normal change: it waits for another person.

        Raises:
            GatesNotPassed, Corrupt, Conflict: the version may not be promoted.
        """
        ...

    def carry_out(
        self,
        call: Call,
        template: str,
        model: str,
        version: int,
        reason: str,
        evidence: Mapping[str, Any],
    ) -> Change:
        """A standard change, which is done when this returns.

        Raises:
            NotFound: no such template was approved.
            OutsideBounds: the change is outside of the template's bounds.
            GatesNotPassed, Corrupt: the version may not be promoted.
        """
        ...


MayPromote = Callable[["Call", str, int], bool]
"""True if the call's principal may ask for a promotion as its account stands now."""


class Promoting:
    """Promotes the versions of retrainings.

    Args:
        registry, bundles: what a version and the champion are.
        asks: changes.
        may: see its type.
    """

    def __init__(self, registry: Registry, bundles: Bundles, asks: Asks, may: MayPromote) -> None:
        self._registry = registry
        self._bundles = bundles
        self._asks = asks
        self._may = may

    def outside(self, call: Call, declared: Retraining, version: int) -> list[str]:
        """Why a version is outside of the retraining's bounds; empty if it is inside."""
        facts = compared(self._registry, self._bundles, call, declared.model, version)
        return outside_of(declared, facts)

    def promoted(
        self, call: Call, declared: Retraining, run: RetrainingRun, version: int
    ) -> tuple[Change, list[str]]:
        """Ask for production, or take it; returns the change, and why it was no standard one.

        Raises:
            Forbidden: the principal may not ask for it.
            GatesNotPassed, Corrupt, Conflict: the version may not be promoted.
        """
        if not self._may(call, declared.model, version):
            raise Forbidden(
                f"{call.principal.id} may not ask for a promotion of {declared.model}.",
                hint="Let somebody who may apply the retraining.",
            )
        reason = f"Retrained by {declared.name}: {run.cause.text}"[:1000]
        found = compared(self._registry, self._bundles, call, declared.model, version)
        evidence = {"retraining": {"run": run.id, "cause": run.cause.text, **found}}
        outside = outside_of(declared, found)
        if declared.standard is not None and not outside:
            template = declared.standard.template
            try:
                done = self._asks.carry_out(
                    call, template, declared.model, version, reason, evidence
                )
            except (NotFound, OutsideBounds) as error:  # raised before anything is written
                outside = [error.message]
            else:
                return done, []
        evidence["retraining"]["outside"] = outside
        return self._asks.ask(call, declared.model, version, reason, evidence), outside


def compared(
    registry: Registry, bundles: Bundles, call: Call, model: str, version: int
) -> dict[str, Any]:
    """How a version differs from the one in production, as gates and bundles tell (JSON)."""
    report = registry.report(call.connection, model, version)
    mine = registry.version(call.connection, model, version)
    champion = registry.champion(call.connection, model)
    facts: dict[str, Any] = {
        "champion": champion.version if champion else None,
        "difference": difference(report),
        "same_feature_service": False,
        "same_contract": False,
    }
    if champion is None:
        return facts
    new = bundles.open_bundle(mine.bundle).manifest
    old = bundles.open_bundle(champion.bundle).manifest
    facts["same_feature_service"] = (
        new.feature_service == old.feature_service
        and new.feature_service_fingerprint == old.feature_service_fingerprint
    )
    facts["same_contract"] = new.signature.label == old.signature.label and _inputs(new) == _inputs(
        old
    )
    return facts


def difference(report: GateReport | None) -> dict[str, Any] | None:
    """What the champion gate measured: by how much the version is better, with its interval."""
    for result in report.results if report else ():
        if result.gate == "champion" and result.outcome == "passed":
            found = result.evidence.get("difference")
            return {"metric": result.evidence.get("metric"), **found} if found else None
    return None


def outside_of(declared: Retraining, facts: Mapping[str, Any]) -> list[str]:
    """Why a version may not take its way by a standard change; empty if it may."""
    if declared.standard is None:
        return ["the retraining names no template of standard changes"]
    return broken(declared.standard, facts)


def broken(standard: Standard, facts: Mapping[str, Any]) -> list[str]:
    """In which ways a version is outside of the bounds; empty if it is inside."""
    found = []
    if facts["champion"] is None:
        found.append("there is no champion to compare with")
    if not facts["same_feature_service"]:
        found.append("its feature service is not the champion's as that stood")
    if not facts["same_contract"]:
        found.append("its inputs or its label are not the champion's")
    told = facts["difference"]
    if told is None:
        found.append("no gate has compared it with the champion")
    elif not told["low"] >= -standard.no_worse_by:
        found.append(
            f"its {told['metric']} may be worse by {-told['low']:.4f}, "
            f"and {standard.no_worse_by:g} is permitted"
        )
    return found


def is_done(change: Change) -> bool:
    """True if a change was carried out."""
    return change.state is ChangeState.APPROVED


def _inputs(manifest: Manifest) -> list[tuple[str, str]]:
    """Names and types of a model's inputs: words that it knows may differ."""
    features = manifest.signature.encoding.features
    return [(one.name, str(one.type)) for one in features]

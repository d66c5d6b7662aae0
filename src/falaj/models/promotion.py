"""Promotion: asked by one, approved by another, on evidence.

``ask`` opens a change; when it is approved, ``apply`` (the handler of the change's kind)
checks everything again and moves the version in the transaction of the approval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import Conflict, InvalidInput
from falaj.models.model import GateReport, GatesNotPassed, ModelVersion, Stage
from falaj.models.quarantine import check_not_quarantined
from falaj.models.registry import version_ref

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falaj.kernel.call import Call
    from falaj.models.registry import Registry
    from falaj.operations.changes import Changes
    from falaj.operations.model import Change

CHANGE_KIND = "model_promotion"


class Promotions:
    """Asks for stages and gives them."""

    def __init__(self, registry: Registry, changes: Changes) -> None:
        self._registry = registry
        self._changes = changes

    def ask(
        self,
        call: Call,
        model: str,
        version: int,
        to: Stage,
        reason: str,
        *,
        evidence: Mapping[str, Any] | None = None,
    ) -> Change:
        """Open the change that, approved, lets a version take a stage.

        ``evidence`` is told to the approver beside what the registry knows.

        Raises:
            NotFound: there is no such version, or no policy for the model.
            Conflict: it stands there already.
            GatesNotPassed: a guarded stage without passed gates under today's policy.
            Corrupt: its bundle does not verify, or says otherwise how it was made.
        """
        found = self._registry.version(call.connection, model, version)
        if not reason.strip():
            raise InvalidInput("A promotion needs a reason.", hint="Say why, for the approver.")
        report = self._checked(call, found, to)
        return self._changes.open(
            call, **self._asked(call, found, report, to, reason, evidence or {})
        )

    def carry_out_standard(
        self,
        call: Call,
        template: str,
        model: str,
        version: int,
        to: Stage,
        reason: str,
        *,
        evidence: Mapping[str, Any],
    ) -> Change:
        """Let a version take a stage at once, by a standard change inside an approved template.

        Raises:
            NotFound: as for ``ask``, or no such template is in force.
            OutsideBounds: the change is outside of the template.
            Conflict, GatesNotPassed, Corrupt: as for ``ask``.
        """
        found = self._registry.version(call.connection, model, version)
        report = self._checked(call, found, to)
        return self._changes.carry_out_standard(
            call,
            template,
            **self._asked(call, found, report, to, reason, evidence),
        )

    def _asked(
        self,
        call: Call,
        found: ModelVersion,
        report: GateReport | None,
        to: Stage,
        reason: str,
        evidence: Mapping[str, Any],
    ) -> dict[str, Any]:
        return {
            "kind": CHANGE_KIND,
            "subject": version_ref(found.model, found.version),
            "title": f"{found.model} version {found.version} to {to}",
            "reason": reason,
            "evidence": {**self.evidence(call, found, report, to), **evidence},
            "payload": {
                "model": found.model,
                "version": found.version,
                "to": str(to),
                "bundle": found.bundle,
                "gate_report": report.id if report else None,
            },
        }

    def evidence(
        self, call: Call, found: ModelVersion, report: GateReport | None, to: Stage
    ) -> dict[str, Any]:
        """What an approver is shown of a version that shall take a stage."""
        champion = self._registry.champion(call.connection, found.model)
        return {
            "bundle": found.bundle,
            "metrics": found.metrics,
            "champion": champion.version if champion else None,
            "gate_report": report.id if report else None,
            # Who asks may also have set the limits: the approver sees both.
            "policy": self._registry.policy_facts(call.connection, found.model, call.principal.id)
            if to.guarded
            else None,
            "gates": [
                {"gate": one.gate, "outcome": str(one.outcome), "message": one.message}
                for one in report.results
            ]
            if report
            else [],
        }

    def apply(self, call: Call, change: Change) -> None:
        """Move the version of an approved change.

        Raises:
            Conflict, GatesNotPassed, Corrupt: what held when it was asked holds no more.
        """
        payload = change.payload
        found = self._registry.version(call.connection, payload["model"], payload["version"])
        to = Stage(payload["to"])
        report = self._checked(call, found, to)
        self._registry.move(
            call,
            found,
            to,
            change=change.id,
            asked_by=change.requested_by,
            reason=change.reason,
            gate_report=report.id if report else None,
        )

    def _checked(self, call: Call, version: ModelVersion, to: Stage) -> GateReport | None:
        """The gate report that permits the move; None where no gates are asked for."""
        name = f"version {version.version} of {version.model}"
        if version.stage is to:
            raise Conflict(
                f"The {name} stands in {to} already.",
                hint="`falaj models history` shows since when.",
            )
        return self.permitted(call, version, to)

    def permitted(self, call: Call, version: ModelVersion, to: Stage) -> GateReport | None:
        """The gate report that lets a version take a stage; None where none is needed.

        Raises:
            GatesNotPassed: a guarded stage without passed gates under today's policy.
            Quarantined: a guarded stage, and the version is in quarantine.
            NotAdopted: a guarded stage without a bundle.
            Corrupt: its bundle does not verify, or says otherwise how it was made.
        """
        name = f"version {version.version} of {version.model}"
        if not to.guarded:
            return self._registry.report(call.connection, version.model, version.version)
        check_not_quarantined(call.connection, version.model, version.version)
        self._registry.trusted(call.connection, version)
        policy = self._registry.policy(call.connection, version.model)
        report = self._registry.report(call.connection, version.model, version.version)
        run = f"Run `falaj models gates {version.model} {version.version}`."
        if report is None:
            raise GatesNotPassed(f"No gate has been run on the {name}.", hint=run)
        if report.policy_fingerprint != policy.fingerprint or report.bundle != version.bundle:
            raise GatesNotPassed(
                f"The gates of the {name} were run under an older policy.", hint=run
            )
        if not report.passed:
            failed = [one for one in report.results if one.outcome == "failed"]
            raise GatesNotPassed(
                f"The {name} failed the gate{'s' if len(failed) > 1 else ''} "
                f"{', '.join(one.gate for one in failed)}: {failed[0].message}",
                hint="Mend the model or, with its reviewers, the policy.",
                failed=[one.gate for one in failed],
            )
        champion = self._registry.champion(call.connection, version.model)
        now = champion.version if champion and champion.version != version.version else None
        if to is Stage.PRODUCTION and policy.champion is not None and report.champion != now:
            raise GatesNotPassed(
                f"The {name} was compared with another champion than today's.", hint=run
            )
        return report

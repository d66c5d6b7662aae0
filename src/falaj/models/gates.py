"""Gates: what a version must keep to be served, measured on rows that it has not seen.

Each gate gives a result with its numbers. A gate that finds a version good enough says
so with the same numbers as one that refuses it: evidence, not claims. What each family
measures stands in ``gating``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.gating.calibration import calibration_gate
from falaj.models.gating.card import card_gate
from falaj.models.gating.cost import latency_gate, memory_gate, size_gate
from falaj.models.gating.examined import Examined, Gate, Named
from falaj.models.gating.explainability import explainability_gate
from falaj.models.gating.fairness import fairness_gate
from falaj.models.gating.inputs import contract_gate, inputs_gate
from falaj.models.gating.leakage import leakage_gate
from falaj.models.gating.origin import bundle_gate, bundle_gate_of, parent_gate, unseen
from falaj.models.gating.quality import champion_gate, metric_gate
from falaj.models.gating.robustness import robustness_gate
from falaj.models.gating.slices import Slices
from falaj.models.gating.supplychain import supply_chain
from falaj.models.model import GateResult, ModelPolicy, Outcome, Parent
from falaj.training.model import TEST, TrainingSet
from falaj.training.ports import Report, untold
from falaj.training.training_sets import part_of

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.models.bundles import Bundle, Bundles
    from falaj.models.ports import Scorer, ScorerFactory, Weighing
    from falaj.models.vulnerabilities import Vulnerabilities


@dataclass(frozen=True)
class Around:
    """What is known around the rows that judge a version.

    ``declared`` is the type of each column of the feature service, as it was pinned (None:
    not known any more); ``personal`` are the columns of the set that are about people;
    ``owner`` is who made the version.
    """

    declared: Mapping[str, str] | None = None
    personal: frozenset[str] = frozenset()
    owner: str | None = None


NOTHING_AROUND = Around()


class Gates:
    """Runs the gates of a policy on a version.

    Args:
        advisories: the known vulnerabilities; None if the settings name none.
        weighing: measures memory; without it that gate fails where a policy asks for it.
    """

    def __init__(
        self,
        bundles: Bundles,
        scorers: ScorerFactory,
        advisories: Vulnerabilities | None = None,
        weighing: Weighing | None = None,
    ) -> None:
        self._bundles = bundles
        self._scorers = scorers
        self._advisories = advisories
        self._weighing = weighing

    def evaluate(
        self,
        policy: ModelPolicy,
        *,
        bundle: str,
        training_set: TrainingSet,
        rows: pa.Table,
        champion: str | None = None,
        champion_set: TrainingSet | None = None,
        champion_version: int | None = None,
        around: Around = NOTHING_AROUND,
        report: Report = untold,
    ) -> list[GateResult]:
        """Measure everything that the policy asks for.

        Args:
            bundle: the version's bundle.
            rows: the training set with all its parts; the test part judges.
            champion: the bundle of the version in production, if there is one.

        Raises:
            InvalidInput: the training set has no test rows, or lacks what a rule names.
        """
        test = part_of(rows, TEST)
        if test.num_rows == 0:
            raise InvalidInput(
                f"The training set {training_set.id} has no test rows to judge by.",
                hint="Make one whose split leaves rows after validation_until.",
            )
        try:
            opened = self._bundles.open_bundle(bundle)
        except Corrupt as error:
            return [GateResult(gate="bundle", outcome=Outcome.FAILED, message=error.message,
                               evidence={"bundle": bundle})]  # fmt: skip
        rival = self._bundles.open_bundle(champion) if champion else None
        test, origin = unseen(opened, training_set, test)
        if origin is not None and origin.outcome is Outcome.FAILED:
            return [bundle_gate_of(opened), origin]
        results: list[GateResult] = [] if origin is None else [origin]
        examined = Examined(
            bundle=opened,
            scorer=self._scorer(opened),
            training_set=training_set,
            rows=test,
            whole=rows,
            champion=rival,
            champion_scorer=self._scorer(rival) if rival else None,
            champion_set=champion_set,
            champion_version=champion_version,
            declared=around.declared,
            personal=around.personal,
            owner=around.owner,
            earlier=results,
        )
        gates = self._gates(policy, opened.manifest.parent)
        for done, (name, gate) in enumerate(gates):
            report(done / len(gates), f"gate {name}")
            results.append(gate(examined))
        return results

    def _scorer(self, bundle: Bundle) -> Scorer:
        manifest = bundle.manifest
        names = manifest.signature.encoding.names
        outputs = manifest.signature.target.outputs
        return self._scorers.of(manifest.model_format, bundle.model, names, outputs)

    def _gates(self, policy: ModelPolicy, parent: Parent | None) -> list[Named]:
        """The gates that a policy asks for, by name, in the order of their results."""
        gates: list[Named] = [
            ("bundle", bundle_gate),
            ("supply_chain", self._supply_chain_gate(policy)),
            ("contract", contract_gate(policy.label, policy.feature_service, policy.target)),
            *_of_rows(policy),
        ]
        if policy.latency:
            gates.append(("latency", latency_gate(policy.latency)))
        if policy.memory:
            gates.append(("memory", memory_gate(policy.memory, self._weighing)))
        if policy.largest_megabytes is not None:
            gates.append(("size", size_gate(policy.largest_megabytes)))
        if parent is not None:
            gates.append(("parent", self._parent_gate(policy, parent)))
        if policy.explainability:
            gates.append(("explainability", explainability_gate(policy.explainability)))
        if policy.card:  # the last: it looks at what the others have found
            gates.append(("card", card_gate(policy.card, policy)))
        return gates

    def _supply_chain_gate(self, policy: ModelPolicy) -> Gate:
        """What the version is made of may be served."""

        def gate(examined: Examined) -> GateResult:
            return supply_chain(policy.supply_chain, examined.bundle, self._advisories)

        return gate

    def _parent_gate(self, policy: ModelPolicy, parent: Parent) -> Gate:
        """The version answers nearly as the one that it was made from."""

        def gate(examined: Examined) -> GateResult:
            others = self._scorer(self._bundles.open_bundle(parent.bundle)).scores(examined.matrix)
            return parent_gate(policy.parent, parent, examined, others)

        return gate


def _of_rows(policy: ModelPolicy) -> list[Named]:
    """The gates that look at rows and scores."""
    gates: list[Named] = []
    if policy.inputs:
        gates.append(("inputs", inputs_gate(policy.inputs)))
    if policy.leakage:
        gates.append(("leakage", leakage_gate(policy.leakage)))
    gates += [(f"metric:{floor.metric}", metric_gate(floor)) for floor in policy.floors]
    if policy.champion:
        gates.append(("champion", champion_gate(policy.champion)))
    for rule in policy.slices:
        gates += Slices(rule).gates()
    if policy.calibration is not None:
        gates.append(("calibration", calibration_gate(policy.calibration)))
    gates += [(f"fairness:{rule.column}", fairness_gate(rule)) for rule in policy.fairness]
    if policy.robustness:
        gates.append(("robustness", robustness_gate(policy.robustness)))
    return gates
